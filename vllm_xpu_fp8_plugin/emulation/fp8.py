# SPDX-License-Identifier: Apache-2.0
"""FP8 quantisation and matrix products."""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.emulation.registry import op
from vllm_xpu_fp8_plugin.emulation.weights import dequantized

# Rows of a matrix product that are computed at once.
_ROWS = 1024

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


def to_fp8(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 `values` to FP8, to nearest even, saturating. NaN stays NaN."""
    limit = torch.finfo(dtype).max
    return values.clamp(-limit, limit).to(dtype)


def dynamic_scale(amax: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the scale that maps `amax` to the largest FP8 value.

    The kernels' lower bound, 1 / (max * 512), keeps a row of zeros from a scale of
    zero (csrc/quantization/fp8/fp8_quant.cpp).
    """
    limit = torch.finfo(dtype).max
    return (amax / limit).clamp(min=1.0 / (limit * 512.0))


@op("_C::static_scaled_fp8_quant")
def static_scaled_fp8_quant(
    result: Tensor,
    input: Tensor,
    scale: Tensor,
    group_shape: tuple[int, int] | None = None,
) -> None:
    """Quantise ``input [M, K]`` with given scales.

    `scale` is one value, [M] or [K] values with a `group_shape` that tells which,
    or a matrix of one value a group of ``group_shape`` (-1: the whole extent).
    """
    values = input.float()
    if scale.numel() == 1:
        expanded = scale.reshape(())
    else:
        m, k = input.numel() // input.shape[-1], input.shape[-1]
        expanded = _expand_groups(scale.float(), m, k, group_shape).view(input.shape)
    result.copy_(to_fp8(values / expanded, result.dtype))


def _expand_groups(
    scale: Tensor, m: int, k: int, group_shape: tuple[int, int] | None
) -> Tensor:
    """Return one scale an element, [m, k]."""
    if scale.dim() == 1:
        if group_shape is None:
            raise RuntimeError(
                "static_scaled_fp8_quant: group_shape is needed for a 1-D scale of "
                f"{scale.numel()} values"
            )
        scale = scale[None] if group_shape[0] in (-1, m) else scale[:, None]
    rows, columns = scale.shape
    if m % rows or k % columns:
        raise RuntimeError(
            f"static_scaled_fp8_quant: a scale of shape {list(scale.shape)} does not "
            f"divide an input of shape [{m}, {k}]"
        )
    by_rows = scale.repeat_interleave(m // rows, dim=0)
    return by_rows.repeat_interleave(k // columns, dim=1)


@op("_C::dynamic_scaled_fp8_quant")
def dynamic_scaled_fp8_quant(result: Tensor, input: Tensor, scale: Tensor) -> None:
    """Quantise with one scale for the whole tensor, written to ``scale [1]``."""
    values = input.float()
    scale.copy_(dynamic_scale(values.abs().amax(), result.dtype).view(scale.shape))
    result.copy_(to_fp8(values / scale, result.dtype))


@op("_C::dynamic_per_token_scaled_fp8_quant")
def dynamic_per_token_scaled_fp8_quant(
    result: Tensor, input: Tensor, scale: Tensor, scale_ub: Tensor | None = None
) -> None:
    """Quantise with one scale a row, written to ``scale [M, 1]``."""
    values = input.float().flatten(0, -2)
    amax = values.abs().amax(dim=-1, keepdim=True)
    if scale_ub is not None:
        amax = amax.minimum(scale_ub.float())
    row_scale = dynamic_scale(amax, result.dtype)
    scale.copy_(row_scale.view(scale.shape))
    result.copy_(to_fp8(values / row_scale, result.dtype).view(result.shape))


@op("_xpu_C::fp8_gemm_w8a16")
def fp8_gemm_w8a16(
    A: Tensor, B: Tensor, B_scale_: Tensor | None = None, bias_: Tensor | None = None
) -> Tensor:
    """Return ``A [..., K] @ (B [K, N] * B_scale) + bias [N]`` in A's dtype.

    `B` is FP8; its scale has one value, [N] values, or one a block.
    """
    if B.dtype not in FP8_DTYPES:
        raise RuntimeError(f"fp8_gemm_w8a16: B must be FP8, got {B.dtype}")
    return _linear(A, B, B_scale_, bias_, A.dtype)


@op("_xpu_C::fp8_gemm")
def fp8_gemm(
    A: Tensor,
    B: Tensor,
    out_dtype: torch.dtype | None = None,
    A_scale_: Tensor | None = None,
    B_scale_: Tensor | None = None,
    bias_: Tensor | None = None,
) -> Tensor:
    """Return ``(A [M, K] * A_scale) @ (B [K, N] * B_scale) + bias [N]``, both FP8.

    `A_scale_` has one value, one a row [M, 1] or one a row and group [M, K / group];
    `B_scale_` one value, [N] values, or one a block [K / block, N / block].
    """
    for name, operand in (("A", A), ("B", B)):
        if operand.dtype not in FP8_DTYPES:
            raise RuntimeError(f"fp8_gemm: {name} must be FP8, got {operand.dtype}")
    a = A.float().flatten(0, -2)
    if A_scale_ is not None:
        a_scale = A_scale_.float()
        if a_scale.numel() > 1:
            a_scale = a_scale.reshape(a.shape[0], -1)
            a_scale = a_scale.repeat_interleave(a.shape[1] // a_scale.shape[1], dim=1)
        a = a * a_scale
    return _linear(a, B, B_scale_, bias_, out_dtype or torch.bfloat16)


def _linear(
    a: Tensor,
    b: Tensor,
    b_scale: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    if a.shape[-1] != b.shape[0]:
        raise RuntimeError(
            f"FP8 product: A has {a.shape[-1]} columns and B {b.shape[0]} rows"
        )
    # vLLM passes an empty tensor for "no bias" (kernels/linear/scaled_mm/xpu.py).
    bias32 = bias.float() if bias is not None and bias.numel() else None
    weight = dequantized(b, b_scale)
    rows = a.flatten(0, -2)
    out = torch.empty(rows.shape[0], weight.shape[0], dtype=dtype)
    # By parts that stay in the processor's cache between conversion and product.
    for start in range(0, rows.shape[0], _ROWS):
        part = slice(start, start + _ROWS)
        out[part] = torch.nn.functional.linear(rows[part].float(), weight, bias32)
    return out.view(*a.shape[:-1], -1)
