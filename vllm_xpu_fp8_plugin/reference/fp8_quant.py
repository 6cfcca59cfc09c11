# SPDX-License-Identifier: Apache-2.0
"""Quantisation of activations and weights to FP8.

Contracts: csrc/quantization/fp8/fp8_quant.cpp of vllm-xpu-kernels.
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
from vllm_xpu_fp8_plugin.reference.refusals import (
    FLOATS,
    FP8_DTYPES,
    as_rows,
    require,
    require_dtype,
)
from vllm_xpu_fp8_plugin.reference.registry import op


@op("_C::static_scaled_fp8_quant")
def static_scaled_fp8_quant(
    result: Tensor,
    input: Tensor,
    scale: Tensor,
    group_shape: tuple[int, int] | None = None,
) -> None:
    """Quantise with given scales.

    Args:
        result: [..., K], FP8, written; may have more rows than `input`.
        input: [..., K] as M rows; float32, fp16 or bf16.
        scale: float32. One value; or [M] or [K] values with a `group_shape` that
            tells which; or a matrix of one value a group.
        group_shape: Rows and columns of a group, -1 for the whole extent.

    Raises:
        RuntimeError: Types, strides or the shape of `scale` do not fit.

    """
    name = "static_scaled_fp8_quant"
    rows, out = _operands(name, input, result)
    require_dtype(name, "scale", scale, (torch.float32,))
    if scale.numel() == 1:
        expanded = scale.reshape(())
    else:
        expanded = _expand_groups(scale, rows.shape[0], rows.shape[1], group_shape)
    out.copy_(quantize(rows.float(), expanded, result.dtype))


def _operands(name: str, input: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """Return `input` and the rows of `result` that it fills, each [M, K]."""
    require_dtype(name, "input", input, FLOATS)
    require_dtype(name, "result", result, FP8_DTYPES)
    rows = as_rows(name, "input", input)
    out = as_rows(name, "result", result)
    # vLLM pads the result to a number of tokens on request.
    require(
        out.shape[0] >= rows.shape[0] and out.shape[1] == rows.shape[1],
        "{}: input has shape {}, result {}",
        name,
        input.shape,
        result.shape,
    )
    return rows, out[: rows.shape[0]]


def _expand_groups(
    scale: Tensor, m: int, k: int, group_shape: tuple[int, int] | None
) -> Tensor:
    """Return the scales such that they broadcast over [m, k]."""
    if scale.dim() == 1:
        require(
            group_shape is not None,
            "static_scaled_fp8_quant: a 1D scale of {} values requires "
            "group_shape, (-1, 1) for one a column or (1, -1) for one a row",
            scale.numel(),
        )
    require(
        scale.dim() in (1, 2),
        "static_scaled_fp8_quant: scale must be 0D, 1D or 2D, got {}D",
        scale.dim(),
    )
    sizes: tuple[int, ...] = tuple(scale.shape)
    if group_shape is not None:
        group_m, group_n = (
            extent if group == -1 else group
            for group, extent in zip(group_shape, (m, k), strict=True)
        )
        require(
            group_m > 0 and group_n > 0 and m % group_m == 0 and k % group_n == 0,
            "static_scaled_fp8_quant: group_shape {} does not "
            "divide an input of shape [{}, {}]",
            tuple(group_shape),
            m,
            k,
        )
        sizes = (m // group_m, k // group_n)
    require(
        (scale.dim() == 2 and tuple(scale.shape) == sizes)
        or (scale.dim() == 1 and 1 in sizes and scale.numel() == max(sizes)),
        "static_scaled_fp8_quant: a scale of shape {} does not "
        "match group_shape {} and an input of "
        "shape [{}, {}]",
        scale.shape,
        group_shape and tuple(group_shape),
        m,
        k,
    )
    scale = scale.reshape(sizes)
    require(
        m % sizes[0] == 0 and k % sizes[1] == 0,
        "static_scaled_fp8_quant: a scale of shape {} does not divide an "
        "input of shape [{}, {}]",
        list(sizes),
        m,
        k,
    )
    for dim, extent in enumerate((m, k)):
        if sizes[dim] not in (1, extent):
            scale = scale.repeat_interleave(extent // sizes[dim], dim=dim)
    return scale


@op("_C::dynamic_scaled_fp8_quant")
def dynamic_scaled_fp8_quant(result: Tensor, input: Tensor, scale: Tensor) -> None:
    """Quantise with one scale for the whole tensor, written to `scale`.

    This scale has no lower bound: zeros give a scale of 0, and 448 for each value.

    Args:
        result: [..., K], FP8, written; may have more rows than `input`.
        input: [..., K]; float32, fp16 or bf16.
        scale: One value, float32, written.

    Raises:
        RuntimeError: Types or strides do not fit.

    """
    name = "dynamic_scaled_fp8_quant"
    rows, out = _operands(name, input, result)
    require_dtype(name, "scale", scale, (torch.float32,))
    require(scale.numel() > 0, "{}: scale must hold a value", name)
    values = rows.float()
    scale = scale.view(-1)[:1]
    if not values.numel():
        scale.zero_()
        return
    limit = torch.finfo(result.dtype).max
    scale.copy_(scaled_down(row_amax(values.flatten()), limit))
    out.copy_(quantize(values, scale, result.dtype))


@op("_C::dynamic_per_token_scaled_fp8_quant")
def dynamic_per_token_scaled_fp8_quant(
    result: Tensor, input: Tensor, scale: Tensor, scale_ub: Tensor | None = None
) -> None:
    """Quantise with one scale a row, written to `scale`.

    Args:
        result: [..., K], FP8, contiguous, written; may have more rows than `input`.
        input: [..., K] as M rows, contiguous; float32, fp16 or bf16.
        scale: M values or more, float32, contiguous, written.
        scale_ub: One value, float32: the largest magnitude that a scale covers.

    Raises:
        RuntimeError: Types, shapes or strides do not fit.

    """
    name = "dynamic_per_token_scaled_fp8_quant"
    for which, tensor in (("input", input), ("result", result), ("scale", scale)):
        require(tensor.is_contiguous(), "{}: {} must be contiguous", name, which)
    rows, out = _operands(name, input, result)
    require_dtype(name, "scale", scale, (torch.float32,))
    m = rows.shape[0]
    require(scale.numel() >= m, "{}: {} scales for {} rows", name, scale.numel(), m)
    if not m:
        return
    values = rows.float()
    amax = row_amax(values)
    if scale_ub is not None:
        require_dtype(name, "scale_ub", scale_ub, (torch.float32,))
        amax = amax.minimum(scale_ub.flatten()[0])
    row_scale = dynamic_scale(amax, result.dtype)
    scale.view(-1, 1)[:m] = row_scale
    out.copy_(quantize(values, row_scale, result.dtype))


@op("_C::per_token_group_fp8_quant")
def per_token_group_fp8_quant(
    input: Tensor,
    output_q: Tensor,
    output_s: Tensor,
    group_size: int,
    eps: float,
    fp8_min: float,
    fp8_max: float,
    scale_ue8m0: bool = False,
    dummy_is_scale_transposed: bool = False,
    dummy_is_tma_aligned: bool = False,
) -> None:
    """Quantise with one scale for each `group_size` neighbours in a row.

    Args:
        input: [..., K], contiguous; float32, fp16 or bf16.
        output_q: As `input`, FP8, contiguous, written.
        output_s: [M, K / group_size], float32, written; column-major where its
            first stride is the smaller one.
        group_size: Divides K.
        eps: Not used: the lower bound of a scale is 1 / (max * 512).
        fp8_min: Not used: the type of `output_q` tells.
        fp8_max: Likewise.
        scale_ue8m0: Whether to round scales up to powers of two.
        dummy_is_scale_transposed: Not used: the strides of `output_s` tell.
        dummy_is_tma_aligned: Likewise.

    Raises:
        RuntimeError: Types, shapes or strides do not fit.

    """
    name = "per_token_group_fp8_quant"
    require_dtype(name, "input", input, FLOATS)
    require_dtype(name, "output_q", output_q, FP8_DTYPES)
    require_dtype(name, "output_s", output_s, (torch.float32,))
    require(input.is_contiguous(), "{}: input must be contiguous", name)
    require(output_q.is_contiguous(), "{}: output_q must be contiguous", name)
    require(
        input.shape == output_q.shape,
        "{}: input has shape {}, output_q {}",
        name,
        input.shape,
        output_q.shape,
    )
    require(
        group_size > 0 and input.shape[-1] % group_size == 0,
        "{}: group_size {} does not divide a row of {}",
        name,
        group_size,
        input.shape[-1],
    )
    groups = input.shape[-1] // group_size
    require(
        list(output_s.shape) == [input.numel() // input.shape[-1], groups],
        "{}: output_s must be 2D, one value a group, got shape "
        "{} for an input of {} in groups of "
        "{}",
        name,
        output_s.shape,
        input.shape,
        group_size,
    )
    require(
        output_s.is_contiguous() or output_s.stride(0) == 1,
        "{}: output_s must be row-major or column-major, got strides {}",
        name,
        list(output_s.stride()),
    )
    values = input.view(-1, groups, group_size).float()
    scale = dynamic_scale(row_amax(values), output_q.dtype)
    if scale_ue8m0:
        scale = power_of_two(scale)
    output_s.copy_(scale.squeeze(-1))
    output_q.copy_(quantize(values, scale, output_q.dtype).view(output_q.shape))
