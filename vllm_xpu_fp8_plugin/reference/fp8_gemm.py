# SPDX-License-Identifier: Apache-2.0
"""Matrix products with FP8 weights.

Contracts: csrc/xpu/onednn/{onednn_matmul.cpp, fp8_gemm_w8a8.h, fp8_gemm_w8a16.h} of
vllm-xpu-kernels. What a scale means follows from its shape there; a scale of another
shape, which the real kernel reads past its end or as something else, is refused.
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.product import product, scaled_weight
from vllm_xpu_fp8_plugin.reference.refusals import (
    FP8_DTYPES,
    require,
    require_dtype,
)
from vllm_xpu_fp8_plugin.reference.registry import op

_HALF_DTYPES = (torch.float16, torch.bfloat16)


@op("_xpu_C::fp8_gemm_w8a16")
def fp8_gemm_w8a16(
    A: Tensor, B: Tensor, B_scale_: Tensor | None = None, bias_: Tensor | None = None
) -> Tensor:
    """Return ``A @ (B * B_scale_) + bias_`` in A's dtype.

    Args:
        A: [M, K] or [b, m, K] with M = b * m, fp16 or bf16.
        B: [K, N], FP8, of any strides.
        B_scale_: One value, N values (1D or [1, N]), one a square block [K / block,
            N / block] of two rows or more, or None for 1.
        bias_: One value, [N], [M, N], [M, 1], or empty or None.

    Returns:
        [M, N] or [b, m, N], with the order of dimensions in memory of A.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "fp8_gemm_w8a16"
    require_dtype(name, "A", A, _HALF_DTYPES)
    require_dtype(name, "B", B, FP8_DTYPES)
    blocks = B_scale_ is not None and B_scale_.dim() == 2 and B_scale_.shape[0] > 1
    weight = scaled_weight(name, B, B_scale_, blocks)
    if B_scale_ is not None and blocks:
        require(
            B.shape[0] // B_scale_.shape[0] == B.shape[1] // B_scale_.shape[1],
            "{}: blocks must be square, got scales of shape "
            "{} for a weight of shape {}",
            name,
            B_scale_.shape,
            B.shape,
        )
    return product(name, A, None, weight, bias_, A.dtype)


@op("_xpu_C::fp8_gemm")
def fp8_gemm(
    A: Tensor,
    B: Tensor,
    out_dtype: torch.dtype | None = None,
    A_scale_: Tensor | None = None,
    B_scale_: Tensor | None = None,
    bias_: Tensor | None = None,
) -> Tensor:
    """Return ``(A * A_scale_) @ (B * B_scale_) + bias_``.

    Args:
        A: [M, K] or [b, m, K] with M = b * m, FP8.
        B: [K, N], of A's dtype and any strides.
        out_dtype: fp16 or bf16; None for fp16.
        A_scale_: One value, M values, or one a row and group [M, K / group]; float32
            or UE8M0; None for 1.
        B_scale_: One value or N values, or, where `A_scale_` has groups, one a block
            [K / group, N / block]; None for 1.
        bias_: One value, [N], [M, N], [M, 1], or empty or None.

    Returns:
        [M, N] or [b, m, N], with the order of dimensions in memory of A.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    dtype = out_dtype or torch.float16
    return _fp8_gemm("fp8_gemm", A, B, dtype, A_scale_, B_scale_, bias_)


@op("_xpu_C::fp8_gemm_out")
def fp8_gemm_out(
    out: Tensor,
    A: Tensor,
    B: Tensor,
    out_dtype: torch.dtype | None = None,
    A_scale_: Tensor | None = None,
    B_scale_: Tensor | None = None,
    bias_: Tensor | None = None,
) -> Tensor:
    """Compute `fp8_gemm` into `out`, of the result's shape, and return `out`.

    Raises:
        RuntimeError: As `fp8_gemm`, or `out` does not fit.

    """
    name = "fp8_gemm_out"
    dtype = out_dtype or out.dtype
    require(
        list(out.shape) == [*A.shape[:-1], B.shape[-1]],
        "{}: expects out of shape {}, got {}",
        name,
        [*A.shape[:-1], B.shape[-1]],
        out.shape,
    )
    require(
        out.dtype == dtype,
        "{}: out must be of dtype {}, got {}",
        name,
        dtype,
        out.dtype,
    )
    return _fp8_gemm(name, A, B, dtype, A_scale_, B_scale_, bias_, out)


def _fp8_gemm(
    name: str,
    a: Tensor,
    b: Tensor,
    dtype: torch.dtype,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    bias: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    require_dtype(name, "A", a, FP8_DTYPES)
    require_dtype(name, "B", b, (a.dtype,))
    blocks = a_scale is not None and a_scale.dim() == 2 and a_scale.shape[1] > 1
    if a_scale is not None:
        require(a_scale.is_contiguous(), "{}: A_scale_ must be contiguous", name)
        m = a.numel() // a.shape[-1]
        require(
            a_scale.numel() in (1, m) or (blocks and a_scale.shape[0] == m),
            "{}: A_scale_ must have 1 value, one a row ({}) or one a row and "
            "group, got shape {}",
            name,
            m,
            a_scale.shape,
        )
    weight = scaled_weight(name, b, b_scale, blocks)
    if a_scale is not None and blocks:
        require(
            b_scale is not None and a_scale.shape[1] == b_scale.shape[0],
            "{}: mismatch of groups, A_scale_ has shape {} and B_scale_ {}",
            name,
            a_scale.shape,
            None if b_scale is None else b_scale.shape,
        )
    return product(name, a, a_scale, weight, bias, dtype, out)


@op("_xpu_C::fp8_bmm")
def fp8_bmm(
    A: Tensor,
    B: Tensor,
    out_dtype: torch.dtype | None = None,
    A_scale_: Tensor | None = None,
    B_scale_: Tensor | None = None,
    bias_: Tensor | None = None,
) -> Tensor:
    """Return the products of a batch, ``(A * A_scale_) @ (B * B_scale_) + bias_``.

    Args:
        A: [batch, M, K], FP8.
        B: [batch, K, N], of A's dtype and any strides.
        out_dtype: fp16 or bf16; None for fp16.
        A_scale_: One value, [batch, M], or [batch, M, K / group]; None for 1.
        B_scale_: One value, [batch, N] ([N] for a batch of one), or one a block
            [batch, K / block, N / block]; None for 1.
        bias_: One value, [N], or empty or None.

    Returns:
        [batch, M, N]

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "fp8_bmm"
    require(A.dim() == 3 and B.dim() == 3, "{}: A and B must be 3D tensors", name)
    require_dtype(name, "A", A, FP8_DTYPES)
    require_dtype(name, "B", B, (A.dtype,))
    require(
        A.shape[0] == B.shape[0] and A.shape[2] == B.shape[1],
        "{}: A has shape {} and B {}",
        name,
        A.shape,
        B.shape,
    )
    batch, m, _ = A.shape
    n = B.shape[2]
    if B_scale_ is not None and B_scale_.dim() == 1 and batch == 1:
        B_scale_ = B_scale_[None]
    a_scales = _scales_of_batch(name, "A_scale_", A_scale_, batch, m, A.shape[2])
    b_scales = _scales_of_batch(name, "B_scale_", B_scale_, batch, n, None)
    require(
        bias_ is None or bias_.numel() in (0, 1) or list(bias_.shape) == [n],
        "{}: bias must be empty or have 1 or {} values",
        name,
        n,
    )
    result = torch.empty(batch, m, n, dtype=out_dtype or torch.float16)
    for i, (a, b, a_scale, b_scale) in enumerate(
        zip(A, B, a_scales, b_scales, strict=True)
    ):
        blocks = b_scale is not None and b_scale.dim() == 2
        weight = scaled_weight(name, b, b_scale, blocks)
        product(name, a, a_scale, weight, bias_, result.dtype, result[i])
    return result


def _scales_of_batch(
    name: str, which: str, scale: Tensor | None, batch: int, extent: int, k: int | None
) -> list[Tensor | None]:
    """Return each batch's part of `scale`."""
    if scale is None or scale.numel() == 1:
        return [scale if scale is None else scale.view(-1)] * batch
    require(scale.is_contiguous(), "{}: {} must be contiguous", name, which)
    fits = scale.dim() in (2, 3) and scale.shape[0] == batch
    if fits and (scale.dim() == 2 or k is not None):
        fits = scale.shape[1] == extent
    if fits and scale.dim() == 3 and k is not None:
        fits = k % scale.shape[2] == 0
    require(fits, "{}: {} of shape {} does not fit", name, which, list(scale.shape))
    return list(scale)
