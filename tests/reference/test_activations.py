# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.activations, through torch's ops."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference import oracle_layers as oracle
from tests.reference.memory import Slab, is_close
from tests.reference.ops import Ops, op_or_function, refused, unchecked
from vllm_xpu_fp8_plugin.reference import activations

pytestmark = pytest.mark.usefixtures("how")
PROPERTY = settings(max_examples=120, deadline=None, derandomize=True)
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
Function = Callable[[Tensor], Tensor]

# Of the gate; the product with the other half is a second rounding.
GATED: dict[str, Function] = {
    "silu_and_mul": oracle.silu,
    "mul_and_silu": oracle.silu,
    "gelu_and_mul": oracle.gelu,
    "gelu_tanh_and_mul": oracle.gelu_tanh,
    "fatrelu_and_mul": lambda x: torch.where(x > 0.5, x, 0.0),
}

# The definition, and the steps of x that roundings on the way may add up to.
PLAIN: dict[str, tuple[Function, float]] = {
    "gelu_new": (oracle.gelu_tanh, 4),
    "gelu_fast": (oracle.gelu_tanh, 4),
    "gelu_quick": (oracle.quick_gelu, 1),
    "relu2_no_mul": (oracle.relu_squared, 0),
}


def op(name: str) -> Callable[..., None]:
    """Return the op, or its function where the installed package has no such op."""
    return op_or_function(Ops("_C"), activations, name)


@st.composite
def inputs(draw: st.DrawFn, factor: int = 1) -> Tensor:
    """Draw packed [..., factor * d], with zeros, small and large values."""
    leading = draw(st.lists(st.integers(1, 4), min_size=0, max_size=2))
    d = draw(st.sampled_from([1, 3, 8, 40]))
    torch.manual_seed(draw(st.integers(0, 99)))
    values = torch.randn(*leading, factor * d) * draw(st.sampled_from([0.01, 2, 9.0]))
    values.flatten()[0] = draw(st.sampled_from([0.0, 20.0, -20.0]))
    return values.to(draw(st.sampled_from(FLOATS)))


@PROPERTY
@given(inputs(factor=2), st.sampled_from(list(GATED)))
def test_gated_activations(x: Tensor, name: str) -> None:
    """Catches a wrong function, the halves taken for each other, and stray writes."""
    before = x.clone()
    first, second = x.double().chunk(2, dim=-1)
    gate, up = (second, first) if name == "mul_and_silu" else (first, second)
    out = Slab(tuple(first.shape), x.dtype)
    threshold = (0.5,) if name == "fatrelu_and_mul" else ()
    op(name)(out.view, x, *threshold)
    # In float32 one minus what is almost one loses all but its absolute precision.
    error = 2.0**-21 * (gate * up).abs() + _subnormal(x.dtype) * up.abs()
    assert is_close(out.view, GATED[name](gate) * up, roundings=2, error=error)
    assert out.is_untouched_outside() and torch.equal(x, before)


@PROPERTY
@given(inputs(), st.sampled_from(list(PLAIN)))
def test_plain_activations(x: Tensor, name: str) -> None:
    """Catches a wrong function, and stray writes."""
    function, steps = PLAIN[name]
    out = Slab(tuple(x.shape), x.dtype)
    op(name)(out.view, x)
    error = steps * torch.finfo(x.dtype).eps * x.double().abs()
    assert is_close(out.view, function(x.double()), roundings=3, error=error)
    assert out.is_untouched_outside()


def _swigluoai(x: Tensor, alpha: float, limit: float) -> Tensor:
    gate, up = x[..., ::2].clamp(max=limit), x[..., 1::2].clamp(-limit, limit)
    return (up + 1) * gate * oracle.sigmoid(alpha * gate)


def _swiglustep(x: Tensor, limit: float) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return oracle.silu(gate).clamp(max=limit) * up.clamp(-limit, limit)


def _situ(x: Tensor, beta: float, linear_beta: float) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    if linear_beta > 0:
        up = linear_beta * (up / linear_beta).tanh()
    return beta * (gate / beta).tanh() * oracle.sigmoid(gate) * up


@PROPERTY
@given(
    inputs(factor=2),
    st.sampled_from(
        [
            ("swigluoai_and_mul", _swigluoai, (1.702, 7.0)),
            ("swigluoai_and_mul", _swigluoai, (0.5, 1.0)),
            ("swiglustep_and_mul", _swiglustep, (7.0,)),
            ("swiglustep_and_mul", _swiglustep, (0.5,)),
            ("situ_and_mul", _situ, (1.0, -1.0)),
            ("situ_and_mul", _situ, (2.0, 0.5)),
        ]
    ),
)
def test_limited_activations(
    x: Tensor, case: tuple[str, Callable[..., Tensor], tuple[float, ...]]
) -> None:
    """Catches a limit on the wrong side, halves for columns, a second rounding."""
    name, function, arguments = case
    out = Slab((*x.shape[:-1], x.shape[-1] // 2), x.dtype)
    op(name)(out.view, x, *arguments)
    exact = function(x.double(), *arguments)
    # The exponential multiplies the error of its argument, which is up to 34.
    assert is_close(out.view, exact, error=2.0**-18 * exact.abs())
    assert out.is_untouched_outside()
    # The schema's defaults.
    if arguments in ((1.702, 7.0), (7.0,), (1.0, -1.0)):
        default = torch.empty_like(out.view)
        op(name)(default, x)
        assert torch.equal(default, out.view)


@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_and_mul"])
@pytest.mark.parametrize("dtype", FLOATS[1:])
def test_the_activation_is_rounded_before_the_product(
    name: str, dtype: torch.dtype
) -> None:
    """Catches one rounding where the kernels have two: a twentieth would differ."""
    torch.manual_seed(0)
    x = torch.randn(64, 256).to(dtype)
    out = torch.empty(64, 128, dtype=dtype)
    op(name)(out, x)
    gate, up = x.double().chunk(2, dim=-1)
    once = (GATED[name](gate) * up).to(dtype)
    twice = (GATED[name](gate).to(dtype).double() * up).to(dtype)
    assert (once != twice).float().mean() > 0.05
    assert (out != twice).float().mean() < 0.001


@pytest.mark.parametrize("dtype", FLOATS)
def test_infinities_and_nan(dtype: torch.dtype) -> None:
    """Catches a NaN where the function has a limit, and a NaN that gets lost."""
    inf, nan = math.inf, math.nan
    x = torch.tensor([[inf, nan, 1.0, 1.0]], dtype=dtype)
    for name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"):
        out = torch.empty(1, 2, dtype=dtype)
        op(name)(out, x)
        assert out[0, 0] == inf and out[0, 1].isnan()
    out = torch.empty(1, 4, dtype=dtype)
    op("relu2_no_mul")(out, torch.tensor([[inf, nan, -inf, -2]], dtype=dtype))
    # A comparison with NaN is false.
    assert out.tolist() == [[inf, 0, 0, 0]]


def _subnormal(dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps


_X, _OUT = torch.ones(3, 8), torch.empty(3, 4)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("silu_and_mul", (_OUT, _X.int()), "input must be"),
        ("silu_and_mul", (_OUT.half(), _X), "out must be float32"),
        unchecked("silu_and_mul", (_OUT, torch.ones(3, 16)[:, :8]), "contiguous"),
        unchecked("silu_and_mul", (torch.empty(3, 8)[:, :4], _X), "contiguous"),
        unchecked("silu_and_mul", (_X.clone(), _X), "twice as many columns"),
        unchecked(
            "mul_and_silu", (_OUT[:, :3].contiguous(), torch.ones(3, 7)), "twice"
        ),
        unchecked("swigluoai_and_mul", (_OUT[:2], _X), "twice as many columns"),
        ("situ_and_mul", (_OUT, _X, 0.0), "beta must be"),
        ("situ_and_mul", (_OUT, _X, 1.0, math.inf), "beta must be"),
        unchecked("gelu_new", (_OUT, _X), "out must be of shape"),
        ("gelu_fast", (_X.clone(), _X.double()), "input must be"),
        unchecked("relu2_no_mul", (torch.empty(8, 3).t(), _X), "contiguous"),
    ],
)
def test_what_the_kernels_cannot_take_is_refused(
    name: str, arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        op(name)(*arguments)
