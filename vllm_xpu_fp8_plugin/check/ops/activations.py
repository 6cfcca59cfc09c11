# SPDX-License-Identifier: Apache-2.0
"""Activations, of a half of the columns times the other half or of all."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected, spacing
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

Function = Callable[[Tensor], Tensor]

# 1 + erf(x), or 1 + tanh(x), keeps its error in float32 where it is near 0.
_TAIL = 2.0**-21
# exp of an argument that is off in its last place, for arguments up to some hundred.
_EXP = 2.0**-18


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """``x P(X <= x)`` of a standard normal X."""
    above: Tensor = torch.special.erfc(-x / math.sqrt(2)) / 2
    return x * above


def gelu_tanh(x: Tensor) -> Tensor:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x / 2 * (1 + inner.tanh())


def gated(**scalars: float) -> Callable[[], Iterator[Arguments]]:
    """Return what makes calls of an op on ``input [..., 2 * d]``."""

    def cases() -> Iterator[Arguments]:
        for dtype in making.FLOATS:
            for tokens, width in making.SHAPES:
                yield {
                    "out": making.empty(tokens, width, dtype=dtype),
                    "input": making.normal(tokens, 2 * width, dtype=dtype, size=3),
                    **scalars,
                }

    return cases


def _result() -> Iterator[Arguments]:
    for arguments in gated()():
        yield {"result": arguments.pop("out"), **arguments}


def _plain() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for shape in making.SHAPES:
            x = making.normal(*shape, dtype=dtype, size=3)
            yield {"out": making.empty(*shape, dtype=dtype), "input": x}


def halves(input: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second half of the columns in float64."""
    first, second = input.double().chunk(2, dim=-1)
    return first, second


def product(activated: Tensor, other: Tensor, dtype: torch.dtype) -> Expected:
    """Return their product, of which the first factor is rounded as well.

    What the first is off by in float32, near 0, the other multiplies.
    """
    rounding = spacing(activated, dtype) / 2 + _EXP * activated.abs()
    return Expected(activated * other, error=rounding * other.abs())


def _tail(x: Tensor, other: Tensor, dtype: torch.dtype) -> Expected:
    """Return ``x * other`` of an activation that cancels in its tail."""
    expected = product(x, other, dtype)
    error = expected.error + _TAIL * 16 * other.abs()
    return Expected(expected.values, error=error)


_HOW = {"vary": ("input",), "rows": ("out", "input"), "largest": 60.0}


@checked("_C::silu_and_mul", _result, **{**_HOW, "rows": ("result", "input")})
def silu_and_mul(result: Tensor, input: Tensor) -> dict[str, Expected]:
    gate, up = halves(input)
    return {"result": product(silu(gate), up, input.dtype)}


@checked("_C::mul_and_silu", gated(), **_HOW)
def mul_and_silu(out: Tensor, input: Tensor) -> dict[str, Expected]:
    up, gate = halves(input)
    return {"out": product(silu(gate), up, input.dtype)}


@checked("_C::gelu_and_mul", gated(), **_HOW)
def gelu_and_mul(out: Tensor, input: Tensor) -> dict[str, Expected]:
    gate, up = halves(input)
    return {"out": _tail(gelu(gate), up, input.dtype)}


@checked("_C::gelu_tanh_and_mul", gated(), **_HOW)
def gelu_tanh_and_mul(out: Tensor, input: Tensor) -> dict[str, Expected]:
    gate, up = halves(input)
    return {"out": _tail(gelu_tanh(gate), up, input.dtype)}


@checked("_C::fatrelu_and_mul", gated(threshold=0.5), **_HOW)
def fatrelu_and_mul(
    out: Tensor, input: Tensor, threshold: float
) -> dict[str, Expected]:
    gate, up = halves(input)
    threshold = float(torch.tensor(threshold, dtype=torch.float32))
    return {"out": Expected(gate.where(gate > threshold, 0.0) * up)}


@checked("_C::swigluoai_and_mul", gated(), **_HOW)
def swigluoai_and_mul(
    out: Tensor, input: Tensor, alpha: float = 1.702, limit: float = 7.0
) -> dict[str, Expected]:
    gate = input[..., ::2].double().clamp(max=limit)
    up = input[..., 1::2].double().clamp(-limit, limit)
    # Within float32 up + 1 cancels near -1.
    activated = gate * sigmoid(alpha * gate)
    error = activated.abs() * (2.0**-23 + (up + 1).abs() * _EXP)
    # A sigmoid that float32 does not hold.
    error = error + (gate * (up + 1)).abs() * 2.0**-126
    return {"out": Expected((up + 1) * activated, error=error)}


@checked("_C::swiglustep_and_mul", gated(), **_HOW)
def swiglustep_and_mul(
    out: Tensor, input: Tensor, limit: float = 7.0
) -> dict[str, Expected]:
    gate, up = halves(input)
    return {"out": Expected(silu(gate).clamp(max=limit) * up.clamp(-limit, limit))}


@checked("_C::situ_and_mul", gated(beta=2.0, linear_beta=0.5), **_HOW)
def situ_and_mul(
    out: Tensor, input: Tensor, beta: float = 1.0, linear_beta: float = -1.0
) -> dict[str, Expected]:
    gate, up = halves(input)
    if linear_beta > 0:
        up = linear_beta * (up / linear_beta).tanh()
    return {"out": Expected(beta * (gate / beta).tanh() * sigmoid(gate) * up)}


def _curve(x: Tensor, values: Tensor, inner: int) -> Expected:
    """Return a curve that kernels compute in the tensor's type, step by step.

    Args:
        x: The input.
        values: Its curve in float64.
        inner: How many steps of the type the factor of ``x / 2`` may be off by.

    """
    eps = torch.finfo(x.dtype).eps
    # The factor lies between 0 and 2; its argument's error moves it in the middle.
    error = x.double().abs() * eps * inner + 2.0**-21 * x.double().abs()
    return Expected(values, roundings=2, error=error)


@checked("_C::gelu_new", _plain, **_HOW)
def gelu_new(out: Tensor, input: Tensor) -> dict[str, Expected]:
    return {"out": _curve(input, gelu_tanh(input.double()), 2)}


@checked("_C::gelu_fast", _plain, **_HOW)
def gelu_fast(out: Tensor, input: Tensor) -> dict[str, Expected]:
    return {"out": _curve(input, gelu_tanh(input.double()), 2)}


@checked("_C::gelu_quick", _plain, **_HOW)
def gelu_quick(out: Tensor, input: Tensor) -> dict[str, Expected]:
    x = input.double()
    return {"out": _curve(input, x * sigmoid(1.702 * x), 2)}


@checked("_C::relu2_no_mul", _plain, **{**_HOW, "largest": 200.0})
def relu2_no_mul(out: Tensor, input: Tensor) -> dict[str, Expected]:
    return {"out": Expected(input.double().clamp(min=0) ** 2)}
