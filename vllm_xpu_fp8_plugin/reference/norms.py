# SPDX-License-Identifier: Apache-2.0
"""RMS norm and layer norm (csrc/layernorm.cpp of vllm-xpu-kernels).

All compute in float32 and round once. The fused forms round the sum to the
residual's dtype first and norm the rounded sum. The gemma and nemotron forms
multiply by ``1 + weight``.
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.refusals import (
    FLOATS,
    require,
    require_all,
    require_dtype,
    require_packed,
)
from vllm_xpu_fp8_plugin.reference.registry import op


@op("_C::rms_norm")
def rms_norm(
    result: Tensor, input: Tensor, weight: Tensor | None, epsilon: float
) -> None:
    """``input / sqrt(mean(input ** 2) + epsilon) * weight`` over the last dimension.

    Args:
        result: [..., hidden], contiguous.
        input: [..., hidden], two to four dimensions of any strides.
        weight: [hidden], or [input.shape[0], hidden] for one a row, or None.
        epsilon: Added to the mean.

    """
    _check("rms_norm", result, input, weight)
    if weight is not None and weight.dim() == 2:
        require(
            weight.shape[0] == input.shape[0],
            "rms_norm: a weight of two dimensions must have {} rows, as input has; "
            "got {}",
            input.shape[0],
            weight.shape[0],
        )
        weight = weight.view(-1, *[1] * (input.dim() - 2), weight.shape[1])
    result.view(input.shape).copy_(normalized(input.float(), weight, epsilon))


@op("_C::gemma_rms_norm")
def gemma_rms_norm(
    result: Tensor, input: Tensor, weight: Tensor, epsilon: float
) -> None:
    """`rms_norm` with ``1 + weight``, weight [hidden]."""
    _check("gemma_rms_norm", result, input, weight)
    normed = normalized(input.float(), weight.float() + 1, epsilon)
    result.view(input.shape).copy_(normed)


@op("_C::fused_add_rms_norm")
def fused_add_rms_norm(
    input: Tensor, residual: Tensor, weight: Tensor | None, epsilon: float
) -> None:
    """``residual += input``, then ``input = rms_norm(residual)``, both in place.

    Args:
        input: [..., hidden], rows of any one distance.
        residual: As `input`, contiguous.
        weight: [hidden] or None.
        epsilon: Added to the mean.

    """
    rows, total = _add("fused_add_rms_norm", input, residual, weight)
    rows.copy_(normalized(total.float(), weight, epsilon))


@op("_C::fused_add_gemma_rms_norm")
def fused_add_gemma_rms_norm(
    input: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> None:
    """`fused_add_rms_norm` with ``1 + weight``."""
    rows, total = _add("fused_add_gemma_rms_norm", input, residual, weight)
    rows.copy_(normalized(total.float(), weight.float() + 1, epsilon))


@op("_C::layer_norm")
def layer_norm(
    result: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
) -> None:
    """``(input - mean) / sqrt(var + epsilon) * weight + bias``, var biased.

    Args:
        result: [..., hidden], contiguous.
        input: [..., hidden], two to four dimensions of any strides.
        weight: [hidden] or None.
        bias: [hidden] or None.
        epsilon: Added to the variance.

    """
    _check("layer_norm", result, input, weight, bias)
    normed = _layer_norm(input.float(), weight, bias, epsilon)
    result.view(input.shape).copy_(normed)


@op("_C::nemotron_layer_norm")
def nemotron_layer_norm(
    result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float
) -> None:
    """`layer_norm` with ``1 + weight``."""
    _check("nemotron_layer_norm", result, input, weight, bias)
    normed = _layer_norm(input.float(), weight.float() + 1, bias, epsilon)
    result.view(input.shape).copy_(normed)


@op("_C::fused_add_layer_norm")
def fused_add_layer_norm(
    input: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
) -> None:
    """``residual += input``, then ``input = layer_norm(residual)``, both in place."""
    rows, total = _add("fused_add_layer_norm", input, residual, weight, bias)
    rows.copy_(_layer_norm(total.float(), weight, bias, epsilon))


@op("_C::fused_add_nemotron_layer_norm")
def fused_add_nemotron_layer_norm(
    input: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
) -> None:
    """`fused_add_layer_norm` with ``1 + weight``."""
    rows, total = _add("fused_add_nemotron_layer_norm", input, residual, weight, bias)
    rows.copy_(_layer_norm(total.float(), weight.float() + 1, bias, epsilon))


def normalized(values: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """Return float32 `values` divided by their root mean square, times `weight`."""
    normed = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + epsilon)
    return normed if weight is None else normed.mul_(weight.float())


def _layer_norm(
    values: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Tensor:
    return torch.nn.functional.layer_norm(
        values,
        values.shape[-1:],
        None if weight is None else weight.float(),
        None if bias is None else bias.float(),
        epsilon,
    )


def _check(
    name: str,
    result: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
) -> None:
    require(
        2 <= input.dim() <= 4,
        "{}: expects 2, 3 or 4 dimensions, got {}",
        name,
        input.dim(),
    )
    require(
        result.shape == input.shape,
        "{}: result must be of shape {}, as input is; got {}",
        name,
        list(input.shape),
        list(result.shape),
    )
    require_packed(name, result=result)
    _check_parameters(name, input, weight, bias)
    require_all(name, input.dtype, result=result)


def _check_parameters(
    name: str, input: Tensor, weight: Tensor | None, bias: Tensor | None
) -> None:
    require_dtype(name, "input", input, FLOATS)
    require_packed(name, weight=weight, bias=bias)
    require_all(name, input.dtype, weight=weight, bias=bias)
    for label, parameter in (("weight", weight), ("bias", bias)):
        dims = (1, 2) if name == "rms_norm" else (1,)
        require(
            parameter is None
            or (parameter.dim() in dims and parameter.shape[-1] == input.shape[-1]),
            "{}: {} must be [{}], as a row of input is; got {}",
            name,
            label,
            input.shape[-1],
            list(parameter.shape) if parameter is not None else None,
        )


def _add(
    name: str,
    input: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add `input` to `residual` in place; return both as [rows, hidden]."""
    _check_parameters(name, input, weight, bias)
    require_all(name, input.dtype, residual=residual)
    require_packed(name, residual=residual)
    require(
        residual.shape == input.shape and input.stride(-1) == 1,
        "{}: input must have the shape of residual, {}, and no gaps in a row; "
        "got {} with strides {}",
        name,
        list(residual.shape),
        list(input.shape),
        input.stride(),
    )
    # Refuses rows that are not of one distance, before anything is written.
    rows = input.view(-1, input.shape[-1])
    residual.add_(input)
    return rows, residual.view(rows.shape)
