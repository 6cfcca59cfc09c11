# SPDX-License-Identifier: Apache-2.0
"""RMS norms whose result is quantised, to FP8 or int8.

Contracts: csrc/layernorm_quant.cpp of vllm-xpu-kernels, and the device code in its
wheels. All round once, at the end. (Before 0.1.14, those with a given scale rounded the
norm and its product with the weight to the input's type too.)
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.fp8 import (
    dynamic_scale,
    power_of_two,
    quantize,
    row_amax,
    scaled_down,
)
from vllm_xpu_fp8_plugin.reference.int8 import quantize_int8
from vllm_xpu_fp8_plugin.reference.norms import normalized
from vllm_xpu_fp8_plugin.reference.refusals import (
    FLOATS,
    FP8_DTYPES,
    as_rows,
    require,
    require_dtype,
)
from vllm_xpu_fp8_plugin.reference.registry import op
from vllm_xpu_fp8_plugin.reference.scale_layout import require_group, write_scales

_E4M3_OR_INT8 = (torch.float8_e4m3fn, torch.int8)


@op("_C::rms_norm_static_fp8_quant")
def rms_norm_static_fp8_quant(
    result: Tensor, input: Tensor, weight: Tensor, scale: Tensor, epsilon: float
) -> None:
    """Write ``rms_norm(input) / scale`` as FP8.

    Args:
        result: [..., K], FP8, contiguous, written.
        input: [..., K] of evenly spaced rows; float32, fp16 or bf16.
        weight: [K], of the input's type.
        scale: One value, float32.
        epsilon: Added to the mean of the squares.

    Raises:
        RuntimeError: Types, shapes or strides do not fit.

    """
    name = "rms_norm_static_fp8_quant"
    _require_operands(name, result, FP8_DTYPES, input, weight)
    rows = as_rows(name, "input", input)
    _write_static(name, result, rows, weight, scale, epsilon)


@op("_C::fused_add_rms_norm_static_fp8_quant")
def fused_add_rms_norm_static_fp8_quant(
    result: Tensor,
    input: Tensor,
    residual: Tensor,
    weight: Tensor,
    scale: Tensor,
    epsilon: float,
) -> None:
    """Add `input` to `residual`, and write ``rms_norm(residual) / scale`` as FP8.

    Args:
        result: [..., K], FP8, contiguous, written.
        input: [..., K] of evenly spaced rows; float32, fp16 or bf16.
        residual: As `input`, contiguous, added to.
        weight: [K], of the input's type.
        scale: One value, float32.
        epsilon: Added to the mean of the squares.

    Raises:
        RuntimeError: Types, shapes or strides do not fit.

    """
    name = "fused_add_rms_norm_static_fp8_quant"
    _require_operands(name, result, FP8_DTYPES, input, weight)
    _add(name, input, residual)
    rows = as_rows(name, "residual", residual)
    _write_static(name, result, rows, weight, scale, epsilon)


def _write_static(
    name: str,
    result: Tensor,
    rows: Tensor,
    weight: Tensor,
    scale: Tensor,
    epsilon: float,
) -> None:
    require_dtype(name, "scale", scale, (torch.float32,))
    normed = normalized(rows.float(), weight, epsilon)
    quantized = quantize(normed, scale.flatten()[0], result.dtype)
    result.copy_(quantized.view(result.shape))


@op("_C::rms_norm_dynamic_per_token_quant")
def rms_norm_dynamic_per_token_quant(
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    scale: Tensor,
    epsilon: float,
    scale_ub: Tensor | None = None,
    residual: Tensor | None = None,
) -> None:
    """Write ``rms_norm(input)``, after adding it to `residual`, with a scale a row.

    Args:
        result: [..., K], e4m3 or int8, contiguous, written.
        input: [..., K], contiguous; float32, fp16 or bf16.
        weight: [K], of the input's type.
        scale: One value a row, float32, contiguous, written.
        epsilon: Added to the mean of the squares.
        scale_ub: One value, float32: the largest magnitude that a scale covers (e4m3).
        residual: As `input`, added to, or None.

    Raises:
        RuntimeError: Types, shapes or strides do not fit.

    """
    name = "rms_norm_dynamic_per_token_quant"
    _require_operands(name, result, _E4M3_OR_INT8, input, weight)
    require(input.is_contiguous(), "{}: input must be contiguous", name)
    require_dtype(name, "scale", scale, (torch.float32,))
    if scale_ub is not None:
        require(
            result.dtype != torch.int8,
            "{}: scale_ub is only supported for FP8 output",
            name,
        )
        require_dtype(name, "scale_ub", scale_ub, (torch.float32,))
    values = _norm_rows(name, input, residual, weight, epsilon)
    amax = row_amax(values)
    if scale_ub is not None:
        amax = amax.minimum(scale_ub.flatten()[0])
    row_scale = _dynamic_scale(amax, result.dtype)
    scale.view(-1, 1)[: len(values)] = row_scale
    result.copy_(_quantize(values, row_scale, result.dtype).view(result.shape))


@op("_C::rms_norm_per_block_quant")
def rms_norm_per_block_quant(
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    scale: Tensor,
    epsilon: float,
    scale_ub: Tensor | None,
    residual: Tensor | None,
    group_size: int,
    is_scale_transposed: bool,
    scale_ue8m0: bool = False,
) -> None:
    """Write ``rms_norm(input)``, after adding it to `residual`, with a scale a group.

    Args:
        result: [..., K] as M rows, e4m3 or int8, contiguous, written.
        input: [..., K] of evenly spaced rows; float32, fp16 or bf16.
        weight: [K], of the input's type.
        scale: M * K / group_size values, float32, written: row by row, or
            transposed column by column.
        epsilon: Added to the mean of the squares.
        scale_ub: Must be None: the real kernel ignores it.
        residual: As `input`, contiguous, added to, or None.
        group_size: Divides K.
        is_scale_transposed: The order of `scale` in memory.
        scale_ue8m0: Whether to round scales up to powers of two (e4m3).

    Raises:
        NotImplementedError: `scale_ub` is given.
        RuntimeError: Types, shapes or strides do not fit.

    """
    name = "rms_norm_per_block_quant"
    if scale_ub is not None:
        raise NotImplementedError(
            f"{name} in PyTorch refuses scale_ub: the XPU kernel takes it "
            "and computes without it."
        )
    _require_operands(name, result, _E4M3_OR_INT8, input, weight)
    require_dtype(name, "scale", scale, (torch.float32,))
    require(
        not scale_ue8m0 or result.dtype != torch.int8,
        "{}: scale_ue8m0 is only supported for float8_e4m3fn output",
        name,
    )
    require_group(name, group_size, input)
    values = _norm_rows(name, input, residual, weight, epsilon)
    values = values.unflatten(1, (-1, group_size))
    group_scale = _dynamic_scale(row_amax(values), result.dtype)
    if scale_ue8m0:
        group_scale = power_of_two(group_scale)
    write_scales(scale, group_scale, is_scale_transposed)
    result.copy_(_quantize(values, group_scale, result.dtype).view(result.shape))


def _require_operands(
    name: str,
    result: Tensor,
    allowed: tuple[torch.dtype, ...],
    input: Tensor,
    weight: Tensor,
) -> None:
    require_dtype(name, "input", input, FLOATS)
    require_dtype(name, "weight", weight, (input.dtype,))
    require_dtype(name, "result", result, allowed)
    require(result.is_contiguous(), "{}: result must be contiguous", name)
    require(
        result.shape == input.shape and weight.shape == input.shape[-1:],
        "{}: result has shape {}, input {}, weight {}",
        name,
        result.shape,
        input.shape,
        weight.shape,
    )


def _add(name: str, input: Tensor, residual: Tensor) -> None:
    """Add `input` to `residual` in place.

    The kernels look at no shape and take `residual` for rows of the input's.
    """
    require_dtype(name, "residual", residual, (input.dtype,))
    require(
        residual.is_contiguous() and residual.shape == input.shape,
        "{}: residual must be contiguous and of the shape of input, {}; got {}",
        name,
        list(input.shape),
        list(residual.shape),
    )
    rows = as_rows(name, "input", input)
    residual.view(rows.shape).add_(rows)


def _norm_rows(
    name: str, input: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float
) -> Tensor:
    """Return the norm of each row in float32, [M, K]; adds to `residual`."""
    rows = as_rows(name, "input", input)
    if residual is not None:
        _add(name, input, residual)
        rows = residual.view(rows.shape)
    return normalized(rows.float(), weight, epsilon)


def _dynamic_scale(amax: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.int8:
        return torch.where(amax > 0, scaled_down(amax, 127), 1.0)
    return dynamic_scale(amax, dtype)


def _quantize(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.int8:
        return quantize_int8(values * scale.reciprocal())
    return quantize(values, scale, dtype)
