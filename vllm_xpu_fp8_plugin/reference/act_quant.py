# SPDX-License-Identifier: Apache-2.0
"""SiLU-and-mul whose result is quantised, to FP8 or int8.

Contracts: csrc/activation.cpp and
csrc/quantization/fused_kernels/fused_silu_mul_block_quant.cpp of vllm-xpu-kernels, and
the device code in its wheels.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from vllm_xpu_fp8_plugin.reference.fp8 import (
    dynamic_scale,
    power_of_two,
    quantize,
    row_amax,
    scaled_down,
    to_fp8,
)
from vllm_xpu_fp8_plugin.reference.int8 import quantize_int8
from vllm_xpu_fp8_plugin.reference.refusals import (
    FP8_DTYPES,
    require,
    require_dtype,
)
from vllm_xpu_fp8_plugin.reference.registry import op
from vllm_xpu_fp8_plugin.reference.scale_layout import write_scales

_HALVES = (torch.float16, torch.bfloat16)


@op("_C::silu_and_mul_quant")
def silu_and_mul_quant(result: Tensor, input: Tensor, scale: Tensor) -> None:
    """Write ``silu(gate) * up / scale`` as FP8.

    The activation and the product are rounded to the input's type first, as
    `silu_and_mul` does.

    Args:
        result: [..., d], FP8, contiguous, written.
        input: [..., 2 * d], the gate first, contiguous; fp16 or bf16.
        scale: One value, float32.

    Raises:
        RuntimeError: Types, shapes or strides do not fit.

    """
    name = "silu_and_mul_quant"
    require_dtype(name, "result", result, FP8_DTYPES)
    require_dtype(name, "input", input, _HALVES)
    require_dtype(name, "scale", scale, (torch.float32,))
    _require_halves(name, result, input)
    gate, up = input.chunk(2, dim=-1)
    product = silu(gate.float()).to(input.dtype) * up
    result.copy_(quantize(product.float(), scale.flatten()[0], result.dtype))


@op("_C::silu_and_mul_per_block_quant")
def silu_and_mul_per_block_quant(
    out: Tensor,
    input: Tensor,
    scales: Tensor,
    group_size: int,
    scale_ub: Tensor | None = None,
    is_scale_transposed: bool = False,
    scale_ue8m0: bool = False,
) -> None:
    """Write ``silu(gate) * up`` with a scale a group.

    Args:
        out: [M, d], FP8 or int8, contiguous, written.
        input: [M, 2 * d], the gate first, contiguous; fp16 or bf16.
        scales: [M, d / group_size], float32, written: row by row, or transposed
            column by column.
        group_size: 32, 64 or 128; divides d.
        scale_ub: One value, float32: the largest scale (FP8).
        is_scale_transposed: The order of `scales` in memory.
        scale_ue8m0: Whether to round scales up to powers of two (FP8).

    Raises:
        RuntimeError: Types, shapes or strides do not fit.

    """
    name = "silu_and_mul_per_block_quant"
    require_dtype(name, "out", out, (*FP8_DTYPES, torch.int8))
    require_dtype(name, "input", input, _HALVES)
    require_dtype(name, "scales", scales, (torch.float32,))
    require(out.dim() == input.dim() == 2, "{}: out and input must be 2D", name)
    _require_halves(name, out, input)
    require(
        group_size in (32, 64, 128) and out.shape[1] % group_size == 0,
        "{}: group_size must be 32, 64, or 128 and divide {}, got {}",
        name,
        out.shape[1],
        group_size,
    )
    is_int8 = out.dtype == torch.int8
    if scale_ub is not None:
        require(not is_int8, "{}: scale_ub is only supported for FP8 output", name)
        require_dtype(name, "scale_ub", scale_ub, (torch.float32,))
    require(
        scales.shape == (out.shape[0], out.shape[1] // group_size),
        "{}: scales must have logical shape [{}, {}], got {}",
        name,
        out.shape[0],
        out.shape[1] // group_size,
        scales.shape,
    )
    gate, up = input.float().chunk(2, dim=-1)
    values = (silu(gate) * up).unflatten(1, (-1, group_size))
    amax = row_amax(values)
    if is_int8:
        scale = scaled_down(amax, 127).clamp_(min=torch.finfo(torch.float32).eps)
        out.copy_(quantize_int8(values / scale).view(out.shape))
    else:
        scale = _fp8_scale(amax, out.dtype, scale_ub)
        if scale_ue8m0:
            scale = power_of_two(scale)
        out.copy_(to_fp8(values / scale, out.dtype).view(out.shape))
    write_scales(scales, scale, is_scale_transposed)


def _fp8_scale(amax: Tensor, dtype: torch.dtype, scale_ub: Tensor | None) -> Tensor:
    scale = dynamic_scale(amax, dtype)
    if scale_ub is None:
        return scale
    lowest = dynamic_scale(torch.zeros(()), dtype)
    return scale.minimum(scale_ub.flatten()[0]).maximum(lowest)


def _require_halves(name: str, out: Tensor, input: Tensor) -> None:
    require(
        out.is_contiguous() and input.is_contiguous(),
        "{}: output and input must be contiguous",
        name,
    )
    require(
        list(input.shape) == [*out.shape[:-1], 2 * out.shape[-1]],
        "{}: input of shape {} is not twice as wide as output of shape {}",
        name,
        input.shape,
        out.shape,
    )
