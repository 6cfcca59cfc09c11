# SPDX-License-Identifier: Apache-2.0
"""RMS norm and layer norm. The fused forms round the sum to the residual's type."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

EPSILON = 1e-6


def rms(x: Tensor, weight: Tensor | None, epsilon: float, plus: float = 0.0) -> Tensor:
    """``x / sqrt(mean(x ** 2) + epsilon) * (weight + plus)``, mean of a row."""
    x = x.double()
    normed = x / ((x * x).mean(-1, keepdim=True) + epsilon).sqrt()
    return normed if weight is None else normed * (weight.double() + plus)


def layer(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    plus: float = 0.0,
) -> Expected:
    """``(x - mean) / sqrt(var + epsilon) * (weight + plus) + bias``, var biased.

    Values near the mean, and near the bias, cancel: the error is of the larger ones.
    """
    x = x.double()
    mean = x.mean(-1, keepdim=True)
    deviation = ((x - mean).square().mean(-1, keepdim=True) + epsilon).sqrt()
    factor = torch.ones(()).double() if weight is None else weight.double() + plus
    shift = torch.zeros(()).double() if bias is None else bias.double()
    normed = (x - mean) / deviation * factor
    terms = factor.abs() if weight is None else weight.double().abs() + plus
    sizes = (x.abs() + mean.abs()) / deviation * terms + shift.abs()
    # The mean of squares less the square of the mean, as some compute the variance,
    # cancels as well.
    squares = (x.square().mean(-1, keepdim=True) / deviation.square()) * normed.abs()
    return Expected(normed + shift, error=(sizes + squares) * 2.0**-20)


def weighted(x: Tensor, weight: Tensor | None, epsilon: float) -> Expected:
    """Return an RMS norm that may be rounded before the weight, as up to 0.1.13.

    Models are defined either way.
    """
    exact = rms(x, weight, epsilon)
    if x.dtype == torch.float32 or weight is None:
        return Expected(exact)
    info = torch.finfo(x.dtype)
    least = info.smallest_normal * info.eps * weight.double().abs()
    return Expected(exact, error=(exact.abs() * info.eps + least) / 2)


def added(input: Tensor, residual: Tensor) -> Tensor:
    """Return the sum as the fused kernels round it, in the residual's type."""
    return (input.double() + residual.double()).to(residual.dtype)


def _sum(input: Tensor, residual: Tensor) -> Expected:
    return Expected(input.double() + residual.double())


def _cases(fused: bool, bias: bool, *, optional: bool) -> Callable[..., Any]:
    def cases() -> Iterator[Arguments]:
        for dtype in making.FLOATS:
            for number, (tokens, width) in enumerate(making.SHAPES):
                x = making.rows(tokens, width, dtype=dtype)
                if number == 2:
                    x = making.with_gaps(x)
                weight = making.normal(width, dtype=dtype)
                out = making.empty(tokens, width, dtype=dtype)
                arguments: Arguments = (
                    {"input": x, "residual": making.rows(*x.shape, dtype=dtype)}
                    if fused
                    else {"result": out, "input": x}
                )
                arguments["weight"] = weight
                if bias:
                    arguments["bias"] = making.normal(width, dtype=dtype)
                yield {**arguments, "epsilon": EPSILON}
                if optional and number == 0:
                    yield {**arguments, "weight": None, "epsilon": EPSILON}

    return cases


_NORM = {"vary": ("input",), "rows": ("result", "input")}
_FUSED = {
    "vary": ("input", "residual"),
    "rows": ("input", "residual"),
    "inplace": ("input", "residual"),
}


def _rms_cases() -> Iterator[Arguments]:
    yield from _cases(False, False, optional=True)()
    for dtype in making.HALVES:
        x = making.rows(5, 4, 64, dtype=dtype)
        yield {
            "result": torch.zeros_like(x),
            "input": x,
            "weight": making.normal(64, dtype=dtype),
            "epsilon": EPSILON,
        }
        x = making.rows(6, 128, dtype=dtype)
        yield {
            "result": torch.zeros_like(x),
            "input": x,
            "weight": making.normal(6, 128, dtype=dtype),
            "epsilon": EPSILON,
        }


@checked("_C::rms_norm", _rms_cases, **_NORM)
def rms_norm(
    result: Tensor, input: Tensor, weight: Tensor | None, epsilon: float
) -> dict[str, Expected]:
    if weight is not None and weight.dim() == 2:
        weight = weight.view(-1, *[1] * (input.dim() - 2), weight.shape[1])
    return {"result": weighted(input, weight, epsilon)}


@checked("_C::gemma_rms_norm", _cases(False, False, optional=False), **_NORM)
def gemma_rms_norm(
    result: Tensor, input: Tensor, weight: Tensor, epsilon: float
) -> dict[str, Expected]:
    return {"result": _plus_one(rms(input, None, epsilon), weight)}


def _plus_one(normed: Tensor, weight: Tensor) -> Expected:
    # 1 + weight cancels in float32 near -1.
    values = normed * (weight.double() + 1)
    return Expected(values, error=normed.abs() * 2.0**-23)


@checked("_C::fused_add_rms_norm", _cases(True, False, optional=True), **_FUSED)
def fused_add_rms_norm(
    input: Tensor, residual: Tensor, weight: Tensor | None, epsilon: float
) -> dict[str, Expected]:
    values = weighted(added(input, residual), weight, epsilon)
    return {"input": values, "residual": _sum(input, residual)}


@checked("_C::fused_add_gemma_rms_norm", _cases(True, False, optional=False), **_FUSED)
def fused_add_gemma_rms_norm(
    input: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> dict[str, Expected]:
    normed = rms(added(input, residual), None, epsilon)
    return {"input": _plus_one(normed, weight), "residual": _sum(input, residual)}


@checked("_C::layer_norm", _cases(False, True, optional=True), **_NORM)
def layer_norm(
    result: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
) -> dict[str, Expected]:
    return {"result": layer(input, weight, bias, epsilon)}


@checked("_C::nemotron_layer_norm", _cases(False, True, optional=False), **_NORM)
def nemotron_layer_norm(
    result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float
) -> dict[str, Expected]:
    return {"result": layer(input, weight, bias, epsilon, plus=1)}


@checked("_C::fused_add_layer_norm", _cases(True, True, optional=True), **_FUSED)
def fused_add_layer_norm(
    input: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
) -> dict[str, Expected]:
    values = layer(added(input, residual), weight, bias, epsilon)
    return {"input": values, "residual": _sum(input, residual)}


@checked(
    "_C::fused_add_nemotron_layer_norm", _cases(True, True, optional=False), **_FUSED
)
def fused_add_nemotron_layer_norm(
    input: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
) -> dict[str, Expected]:
    values = layer(added(input, residual), weight, bias, epsilon, plus=1)
    return {"input": values, "residual": _sum(input, residual)}
