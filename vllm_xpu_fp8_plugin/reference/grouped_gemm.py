# SPDX-License-Identifier: Apache-2.0
"""Products of each expert's rows with its own weight.

Contract: csrc/xpu/grouped_gemm/xe_2/{grouped_gemm_xe2_interface.hpp, gemm_xe2.hpp} of
vllm-xpu-kernels. A weight with scales of groups or blocks is rounded to the type of A
before the product, as the kernel rounds it.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference import weights
from vllm_xpu_fp8_plugin.reference.four_bits import from_fp4, from_int4
from vllm_xpu_fp8_plugin.reference.fp8 import from_fp8
from vllm_xpu_fp8_plugin.reference.refusals import FP8_DTYPES, require, require_dtype
from vllm_xpu_fp8_plugin.reference.registry import op

_HALF_DTYPES = (torch.float16, torch.bfloat16)
_MXFP4, _E8M0 = torch.float4_e2m1fn_x2, torch.float8_e8m0fnu
_BLOCK, _MX_GROUP = 128, 32

# An expert's values and scales -> its weight, [N, K], float32.
_Convert = Callable[[Tensor, Tensor], Tensor]


@op("_xpu_C::cutlass_grouped_gemm_interface")
def cutlass_grouped_gemm_interface(
    ptr_A: Tensor,
    ptr_A_scale: Tensor | None,
    ptr_B: Tensor,
    ptr_B_scale: Tensor | None,
    ptr_bias: Tensor | None,
    ptr_D: Tensor,
    rows_per_expert: Tensor,
    N: int,
    K: int,
    num_experts: int,
) -> Tensor:
    """Compute ``A @ B[expert] * scale + bias[expert]`` for the rows of each expert.

    Args:
        ptr_A: [M, K], fp16 or bf16, the rows of the first expert first.
        ptr_A_scale: Not used, as in the kernel.
        ptr_B: [experts, K, N] of A's type or FP8; of int8 with two int4 a byte or of
            MXFP4, [experts, N, K / 2].
        ptr_B_scale: None for weights of A's type; of FP8 [experts], float32, one a
            block [experts, K / 128, N / 128], float32, or UE8M0 for 32 along K,
            [experts, K / 32, N] or [experts, N, K / 32]; of int4 and MXFP4 [experts,
            N, K / group], of A's type and UE8M0.
        ptr_bias: [experts, N], of A's type.
        ptr_D: [M, N], of A's type, written: as many rows as the experts have.
        rows_per_expert: [experts], int32.
        N: Columns.
        K: What is summed over.
        num_experts: Experts.

    Returns:
        ptr_D

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "cutlass_grouped_gemm_interface"
    narrow = ptr_B_scale is not None and ptr_B.dtype in (torch.int8, _MXFP4)
    _check(ptr_A, ptr_B, ptr_bias, ptr_D, narrow, N, K, num_experts)
    require_dtype(name, "ptr_A", ptr_A, _HALF_DTYPES)
    require_dtype(name, "ptr_D", ptr_D, (ptr_A.dtype,))
    require_dtype(name, "rows_per_expert", rows_per_expert, (torch.int32,))
    counts = rows_per_expert.tolist()
    require(
        len(counts) == num_experts and sum(counts) <= len(ptr_A),
        "{}: rows_per_expert counts {} rows for {} experts, there are {} and {}",
        name,
        sum(counts),
        len(counts),
        len(ptr_A),
        num_experts,
    )
    convert = _conversion(ptr_A, ptr_B, ptr_B_scale, N, K, num_experts)
    start = 0
    for expert, count in enumerate(counts):
        part = slice(start, start + count)
        start += count
        if not count:
            continue
        values = ptr_B[expert]
        scale = None if ptr_B_scale is None else ptr_B_scale[expert]
        sources = (values,) if scale is None else (values, scale)
        weight = weights.converted(
            sources,
            functools.partial(convert, values, values if scale is None else scale),
            ptr_A.dtype,
        )
        sums = torch.nn.functional.linear(ptr_A[part].float(), weight)
        if ptr_bias is not None:
            sums += ptr_bias[expert].float()
        ptr_D[part] = sums
    return ptr_D


def _check(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    d: Tensor,
    narrow: bool,
    n: int,
    k: int,
    experts: int,
) -> None:
    """Refuse what the host code refuses, in its words."""
    require(n % 8 == 0, "N must be divisible by 8")
    require(a.dim() == 2, "ptr_A must be 2D [Total_M, K]")
    require(b.dim() == 3, "ptr_B must be 3D [num_experts, K, N]")
    require(d.dim() == 2, "ptr_D must be 2D [Total_M, N]")
    if bias is not None:
        require(bias.dim() == 2, "ptr_bias must be 2D [num_experts, N]")
        require(bias.is_contiguous(), "ptr_bias must be contiguous")
    for name, tensor in (("ptr_A", a), ("ptr_B", b), ("ptr_D", d)):
        require(tensor.is_contiguous(), "{} must be contiguous", name)
    b_k, b_n = (b.shape[2] * 2, b.shape[1]) if narrow else tuple(b.shape[1:])
    require(b.shape[0] == experts, "ptr_B.size(0) must match num_experts")
    require(len(a) == len(d), "ptr_A.size(0) must match ptr_D.size(0)")
    require(a.shape[1] == b_k == k, "ptr_A.size(1) must match ptr_B.size(1)")
    require(b_n == d.shape[1] == n, "ptr_B.size(2) must match ptr_D.size(1)")
    if bias is not None:
        require(bias.shape[0] == experts, "ptr_bias.size(0) must match num_experts")
        require(bias.shape[1] == n, "ptr_bias.size(1) must match N")
        require_dtype("cutlass_grouped_gemm_interface", "ptr_bias", bias, (a.dtype,))


def _conversion(
    a: Tensor, b: Tensor, scale: Tensor | None, n: int, k: int, experts: int
) -> _Convert:
    """Return how a weight is made of an expert's values and scales.

    Raises:
        RuntimeError: The scales do not fit.

    """
    if b.dtype not in FP8_DTYPES and (
        scale is None or b.dtype not in (torch.int8, _MXFP4)
    ):
        require(scale is None, "w16a16 grouped gemm must not have scales")
        require_dtype("cutlass_grouped_gemm_interface", "ptr_B", b, (a.dtype,))
        return lambda values, _: values.t().float()
    require(scale is not None, "w8a16 grouped gemm must have scales")
    assert scale is not None
    require(scale.is_contiguous(), "ptr_scales must be contiguous")
    if b.dtype not in FP8_DTYPES:
        return _four_bits(a, b, scale, n, k, experts)
    powers = scale.dtype in (torch.uint8, _E8M0)
    if scale.dim() == 3 and powers:
        require(
            scale.shape[0] == experts,
            "ptr_scales.size(0) of mxfp8 must match num_experts",
        )
        require(k % _MX_GROUP == 0, "mxfp8 requires K divisible by 32")
        groups = k // _MX_GROUP
        swapped = list(scale.shape[1:]) == [groups, n]
        require(
            swapped or list(scale.shape[1:]) == [n, groups],
            "mxfp8 scales must be [E, N, K/32] after layout normalize; got {} with "
            "N={} K={}",
            list(scale.shape),
            n,
            k,
        )
        return lambda values, scales: _scaled(
            from_fp8(values.t().contiguous()),
            _power_of_two(scales.t() if swapped else scales),
            a.dtype,
        )
    if scale.dim() == 3 and scale.dtype == torch.float32:
        for label, extent in (("K", k), ("N", n)):
            require(
                extent % _BLOCK == 0, "block-fp8 requires {} divisible by 128", label
            )
        require(
            list(scale.shape) == [experts, k // _BLOCK, n // _BLOCK],
            "block-fp8 scales must be [E, K/128, N/128]; got {} with N={} K={}",
            list(scale.shape),
            n,
            k,
        )
        return lambda values, scales: _scaled(
            from_fp8(values.t().contiguous()),
            scales.t().repeat_interleave(_BLOCK, 0),
            a.dtype,
        )
    require(scale.dim() == 1, "ptr_scales of fp8 must be 1D [num_experts]")
    require(
        scale.shape[0] == experts, "ptr_scales.size(0) of fp8 must match num_experts"
    )
    require(scale.dtype == torch.float32, "ptr_scales must be float")
    return lambda values, scales: from_fp8(values.t().contiguous(), scales.view(1))


def _four_bits(
    a: Tensor, b: Tensor, scale: Tensor, n: int, k: int, experts: int
) -> _Convert:
    """Return how a weight is made of int4 or MXFP4 and its scales."""
    require(
        scale.dim() == 3,
        "ptr_scales of int4 must be 3D [num_experts, group_num, N]",
    )
    require(
        scale.shape[0] == experts, "ptr_scales.size(0) of int4 must match num_experts"
    )
    require(
        scale.shape[2] > 0 and k % scale.shape[2] == 0,
        "ptr_scales.size(2) of int4 must be divisible by K",
    )
    require(scale.shape[1] == n, "ptr_scales.size(1) of int4 must match N")
    require(
        k // scale.shape[2] in (32, 64, 128, 256),
        "group_size must be 32, 64, 128 or 256",
    )
    name = "cutlass_grouped_gemm_interface"
    if b.dtype == torch.int8:
        require_dtype(name, "ptr_B_scale", scale, (a.dtype,))
        return lambda values, scales: _scaled(from_int4(values), scales, a.dtype)
    require_dtype(name, "ptr_B_scale", scale, (torch.uint8, _E8M0))
    return lambda values, scales: _scaled(
        from_fp4(values), _power_of_two(scales), a.dtype
    )


def _power_of_two(scales: Tensor) -> Tensor:
    """Return UE8M0 as the kernel reads it: its bits as a float's exponent.

    So 0 is 0 and not 2^-127, and 255 is infinite and not NaN.
    """
    return (scales.contiguous().view(torch.uint8).int() << 23).view(torch.float32)


def _scaled(values: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``values [N, K] * scales [N, groups]``, rounded to `dtype`.

    Beside fp16 the scales are rounded to it as well.
    """
    scales = scales.half().float() if dtype == torch.float16 else scales.float()
    product = values.view(*scales.shape, -1) * scales.unsqueeze(-1)
    return product.flatten(1).to(dtype).float()
