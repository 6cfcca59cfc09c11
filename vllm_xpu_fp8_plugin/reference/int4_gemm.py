# SPDX-License-Identifier: Apache-2.0
"""Matrix products with int4 weights.

Contracts: csrc/xpu/onednn/{onednn_matmul.cpp, int4_gemm_w4a16.h, int4_gemm_w4a8.h} of
vllm-xpu-kernels. With A in fp16 or bf16, oneDNN is told to convert a weight to that
type before the product (``fpmath_mode``), so a weight is rounded to it.
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference import weights
from vllm_xpu_fp8_plugin.reference.four_bits import codes
from vllm_xpu_fp8_plugin.reference.product import Converted, product
from vllm_xpu_fp8_plugin.reference.refusals import FLOATS, require, require_dtype
from vllm_xpu_fp8_plugin.reference.registry import op

_HALF_DTYPES = (torch.float16, torch.bfloat16)


@op("_xpu_C::int4_gemm_w4a16")
def int4_gemm_w4a16(
    A: Tensor,
    B: Tensor,
    bias: Tensor | None,
    B_scale: Tensor,
    B_zp: Tensor,
    group_size: int,
    g_idx: Tensor | None = None,
) -> Tensor:
    """Return ``A @ ((B - B_zp) * B_scale) + bias`` in A's dtype.

    Args:
        A: [M, K] or [b, m, K] with M = b * m, fp16 or bf16.
        B: [K / 8, N], int32 of eight codes 0 to 15 along K, transposed: its columns
            are contiguous.
        bias: One value, [N], [M, N], [M, 1], or empty or None.
        B_scale: [K / group_size, N]
        B_zp: One int8 value; or [K / group_size, N / 8], int32 of eight codes along N.
        group_size: Rows of a weight that share a scale; -1 for all.
        g_idx: [K], int32: the column of A that each row of B is for; None for its own.

    Returns:
        [M, N] or [b, m, N], with the order of dimensions in memory of A.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "int4_gemm_w4a16"
    require(B_scale.is_contiguous(), "B_scale must be contiguous for int4 matmul")
    a = A if g_idx is None else A.index_select(-1, g_idx.int())
    require(
        a.dtype in _HALF_DTYPES,
        "Unsupported data type for int4-f16/bf16 matmul: {}",
        a.dtype,
    )
    weight = _weight(name, a, B, B_scale, B_zp, group_size)
    return product(name, a, None, weight, bias, a.dtype)


@op("_xpu_C::int4_gemm_w4a8")
def int4_gemm_w4a8(
    A_: Tensor,
    A_scale: Tensor,
    A_zp: Tensor,
    B: Tensor,
    B_scale: Tensor,
    B_zp: Tensor,
    group_size: int,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return ``((A_ - A_zp) * A_scale) @ ((B - B_zp) * B_scale) + bias`` in fp16.

    Args:
        A_: [M, K] or [b, m, K] with M = b * m, int8 or uint8.
        A_scale: [M, 1], or one value [1], of a floating type.
        A_zp: [M, 1], or one value [1], int32.
        B: As in `int4_gemm_w4a16`, and so are the others.
        B_scale: [K / group_size, N]
        B_zp: One int8 value, or [K / group_size, N / 8].
        group_size: Rows of a weight that share a scale; -1 for all.
        g_idx: [K], int32, or None.
        bias: One value, [N], [M, N], [M, 1], or empty or None.

    Returns:
        [M, N] or [b, m, N], float16.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "int4_gemm_w4a8"
    require(A_scale.is_contiguous(), "A_scale must be contiguous for int4 matmul")
    require(B_scale.is_contiguous(), "B_scale must be contiguous for int4 matmul")
    a = A_ if g_idx is None else A_.index_select(-1, g_idx.int())
    rows = A_scale.dim() == A_zp.dim() == 2 and A_scale.shape[1] == A_zp.shape[1] == 1
    require(
        rows or A_scale.dim() == A_zp.dim() == 1,
        "Int4-Int8 matmul expects quantized input A to be per-token ([b*m,1]) or "
        "per-tensor ([b]) quantized!",
    )
    require(
        a.dtype in (torch.int8, torch.uint8),
        "Unsupported data type for int4-int8 matmul: {}",
        a.dtype,
    )
    m = a.numel() // a.shape[-1]
    for label, value in (("A_scale", A_scale), ("A_zp", A_zp)):
        require(
            value.numel() in (1, m),
            "{}: {} must have 1 value or {}, got shape {}",
            name,
            label,
            m,
            list(value.shape),
        )
    require_dtype(name, "A_zp", A_zp, (torch.int32,))
    weight = _weight(name, a, B, B_scale, B_zp, group_size)
    shape = (*a.shape[:-1], 1)
    zero = A_zp.expand(m, 1) if A_zp.dim() == 2 else A_zp.expand(m)
    scale = A_scale.expand(m, 1) if A_scale.dim() == 2 else A_scale.expand(m)
    values = (a.float() - zero.reshape(shape)) * scale.float().reshape(shape)
    return product(name, values, None, weight, bias, torch.float16)


def _weight(
    name: str, a: Tensor, b: Tensor, scale: Tensor, zero: Tensor, group_size: int
) -> Converted:
    """Return the weight, [N, K] in float32, as rounded as it is beside `a`.

    Raises:
        RuntimeError: A type or shape does not fit.

    """
    require(a.dim() in (2, 3), "OneDNN Matmul only support 2D and 3D inputs!")
    require(b.dim() in (2, 3), "OneDNN Matmul only support 2D and 3D weights!")
    require(b.dim() == 2, "{}: a batch of int4 weights is not implemented", name)
    require_dtype(name, "B", b, (torch.int32,))
    require(b.stride(0) == 1, "Int4 weight must be in NT format!")
    require_dtype(name, "B_scale", scale, FLOATS)
    k, n = b.shape[0] * 8, b.shape[1]
    size = k if group_size == -1 else group_size
    require(
        size > 0 and k % size == 0 and list(scale.shape) == [k // size, n],
        "{}: B_scale must have a value a group of {} rows and column, [{}, {}], got {}",
        name,
        group_size,
        k // max(size, 1),
        n,
        list(scale.shape),
    )
    if zero.dim() == 1:
        fits = zero.dtype == torch.int8 and zero.numel() > 0
    else:
        fits = zero.dtype == torch.int32 and zero.is_contiguous()
        fits = fits and list(zero.shape) == [k // size, n // 8]
    require(
        fits,
        "{}: B_zp must be one int8 value or int32 of shape [{}, {}], got {} of {}",
        name,
        k // size,
        n // 8,
        list(zero.shape),
        zero.dtype,
    )

    rounded = a.dtype if a.dtype in _HALF_DTYPES else None

    def convert() -> Tensor:
        values = codes(b.t()).float()
        if zero.dim() == 1:
            values -= zero[0].float()
        else:
            values -= codes(zero).t().float().repeat_interleave(size, 1)
        values *= scale.t().float().repeat_interleave(size, 1)
        return values if rounded is None else values.to(rounded).float()

    return Converted(weights.converted((b, scale, zero), convert, rounded))
