# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.norms, through torch's ops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference import oracle_layers as oracle
from tests.reference.memory import Slab, is_close
from tests.reference.ops import (
    COMPILED,
    Ops,
    in_pytorch_only,
    op_or_function,
    refused,
    release,
    unchecked,
)
from vllm_xpu_fp8_plugin.reference import norms

pytestmark = pytest.mark.usefixtures("how")
PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)
FLOATS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
EPSILONS = st.sampled_from([1e-6, 1e-5, 0.5])
SIZES = st.sampled_from([1, 2, 7, 8, 33, 64, 130])


def op(name: str) -> Callable[..., None]:
    """Return the op, or its function where the installed package has no such op."""
    return op_or_function(Ops("_C"), norms, name)


@st.composite
def inputs(draw: st.DrawFn) -> Tensor:
    """Draw [..., hidden] of two to four dimensions, of any strides."""
    shape = (
        *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)),
        draw(SIZES),
    )
    dtype = draw(FLOATS)
    torch.manual_seed(draw(st.integers(0, 99)))
    size = draw(st.sampled_from([1e-3, 1.0, 100.0]))
    layout = draw(st.sampled_from(["packed", "rows", "heads", "columns"]))
    if layout == "columns":
        return (size * torch.randn(*shape, 2)).to(dtype)[..., 0]
    if layout == "heads" and len(shape) > 2:
        swapped = (size * torch.randn(shape).transpose(0, 1)).to(dtype).contiguous()
        return swapped.transpose(0, 1)
    gap = 3 if layout == "rows" else 0
    values = size * torch.randn(*shape[:-1], shape[-1] + gap)
    return values.to(dtype)[..., : shape[-1]]


def parameter(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


@PROPERTY
@given(inputs(), st.sampled_from(["none", "vector", "rows"]), EPSILONS)
def test_rms_norm(x: Tensor, weights: str, epsilon: float) -> None:
    """Catches a wrong mean, weight or stride, and a second rounding."""
    # A weight of two dimensions is taken for its first row before 0.1.15.
    assume(weights != "rows" or Ops.how != COMPILED or release() >= (0, 1, 15))
    hidden = x.shape[-1]
    shapes = {"vector": (hidden,), "rows": (x.shape[0], hidden)}
    weight = None if weights == "none" else parameter(shapes[weights], x.dtype, 1)
    before, result = x.clone(), Slab(tuple(x.shape), x.dtype)
    op("rms_norm")(result.view, x, weight, epsilon)
    full = weight
    if weights == "rows":
        assert weight is not None
        full = torch.stack([w.expand(x.shape[1:]) for w in weight])
    # Before 0.1.14 the norm is rounded before the product with the weight too.
    roundings = 2 if Ops.how == COMPILED and release() < (0, 1, 14) else 1
    assert is_close(result.view, oracle.rms_norm(x, full, epsilon), roundings)
    assert result.is_untouched_outside() and torch.equal(x, before)


@PROPERTY
@given(inputs(), EPSILONS)
def test_gemma_norm_adds_one_to_the_weight(x: Tensor, epsilon: float) -> None:
    """Catches a weight taken as it is, and ``1 + weight`` rounded to half."""
    weight = parameter((x.shape[-1],), x.dtype, 2)
    result = Slab(tuple(x.shape), x.dtype)
    op("gemma_rms_norm")(result.view, x, weight, epsilon)
    assert is_close(result.view, oracle.rms_norm(x, weight, epsilon, plus=1.0))
    assert result.is_untouched_outside()


@PROPERTY
@given(inputs(), st.booleans(), st.booleans(), st.booleans(), EPSILONS)
def test_layer_norm(
    x: Tensor, has_weight: bool, has_bias: bool, nemotron: bool, epsilon: float
) -> None:
    """Catches an unbiased variance, a mean that stays, and a swapped bias."""
    has_weight |= nemotron
    weight = parameter((x.shape[-1],), x.dtype, 1) if has_weight else None
    bias = parameter((x.shape[-1],), x.dtype, 2) if has_bias else None
    result = Slab(tuple(x.shape), x.dtype)
    name = "nemotron_layer_norm" if nemotron else "layer_norm"
    op(name)(result.view, x, weight, bias, epsilon)
    exact = oracle.layer_norm(x, weight, bias, epsilon, plus=float(nemotron))
    assert is_close(result.view, exact, error=_cancelled(x, weight, epsilon))
    assert result.is_untouched_outside()


def _cancelled(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """Return what is lost in float32 by subtracting the mean and adding the bias."""
    scale = (x.double().var(-1, correction=0, keepdim=True) + epsilon).rsqrt()
    size = x.double().abs().amax(-1, keepdim=True) * scale
    largest = 2.0 if weight is None else weight.double().abs().max() + 2.0
    return 2.0**-20 * (size * largest + 4)


FUSED: dict[str, tuple[bool, float]] = {
    # Whether it is a layer norm, and what is added to the weight.
    "fused_add_rms_norm": (False, 0.0),
    "fused_add_gemma_rms_norm": (False, 1.0),
    "fused_add_layer_norm": (True, 0.0),
    "fused_add_nemotron_layer_norm": (True, 1.0),
}


@pytest.mark.parametrize("name", FUSED)
@PROPERTY
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=2),
    SIZES,
    FLOATS,
    st.sampled_from([0, 5]),
    st.booleans(),
    st.booleans(),
    EPSILONS,
    st.integers(0, 99),
)
def test_fused_norm_adds_and_norms_in_place(
    name: str,
    rows: list[int],
    hidden: int,
    dtype: torch.dtype,
    gap: int,
    has_weight: bool,
    has_bias: bool,
    epsilon: float,
    seed: int,
) -> None:
    """Catches a norm of the sum before its rounding, and writes between the rows."""
    is_layer_norm, plus = FUSED[name]
    shape = (*rows, hidden)
    torch.manual_seed(seed)
    x, r = torch.randn(shape).to(dtype), (3 * torch.randn(shape)).to(dtype)
    slab, residual = Slab(shape, dtype, (gap,), x), Slab(shape, dtype, values=r)
    weight = parameter((hidden,), dtype, 1) if has_weight or plus else None
    bias = parameter((hidden,), dtype, 2) if is_layer_norm and has_bias else None
    extra = (bias,) if is_layer_norm else ()
    op(name)(slab.view, residual.view, weight, *extra, epsilon)
    assert is_close(residual.view, x.double() + r.double())
    rounded = residual.view
    if is_layer_norm:
        exact = oracle.layer_norm(rounded, weight, bias, epsilon, plus)
        error: float | Tensor = _cancelled(rounded, weight, epsilon)
    else:
        exact, error = oracle.rms_norm(rounded, weight, epsilon, plus), 0.0
    assert is_close(slab.view, exact, error=error)
    assert slab.is_untouched_outside() and residual.is_untouched_outside()


def test_no_rows_and_rows_of_zeros() -> None:
    """Catches a division by zero where epsilon keeps it away."""
    for name in ("rms_norm", "gemma_rms_norm"):
        result = torch.full((2, 8), torch.nan)
        op(name)(result, torch.zeros(2, 8), torch.ones(8), 1e-6)
        assert not result.any()
        op(name)(result[:0], torch.ones(0, 8), torch.ones(8), 1e-6)
    op("fused_add_rms_norm")(torch.ones(0, 8), torch.ones(0, 8), None, 1e-6)


_X, _W = torch.ones(4, 8), torch.ones(8)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("rms_norm", (_X.t(), _X.t(), torch.ones(4)), "contiguous"),
        ("rms_norm", (_X, _X, torch.ones(16)[::2]), "contiguous"),
        ("rms_norm", (_X, _X, _W.half()), "weight must be float32"),
        unchecked("rms_norm", (_X, _X, torch.ones(4)), "must be .8"),
        unchecked("rms_norm", (_X, _X, torch.ones(3, 8)), "4 rows"),
        unchecked("rms_norm", (_X, _X, torch.ones(1, 1, 8)), "must be .8"),
        ("rms_norm", (_X.double(), _X.double(), _W.double()), "float64"),
        ("rms_norm", (_X.half(), _X, _W), "result must be float32"),
        unchecked("rms_norm", (_X[:2], _X, _W), "of shape"),
        ("rms_norm", (_W, _W, _W), "2, 3 or 4 dimensions"),
        ("gemma_rms_norm", (_X, _X, _W.half()), "weight must be float32"),
        unchecked("gemma_rms_norm", (_X, _X, torch.ones(4, 8)), "must be .8"),
        ("fused_add_rms_norm", (_X, _X.half(), _W), "residual must be float32"),
        unchecked("fused_add_rms_norm", (_X, torch.ones(8, 4).t(), _W), "contiguous"),
        unchecked("fused_add_rms_norm", (torch.ones(8, 4).t(), _X, _W), "no gaps"),
        unchecked(
            "fused_add_rms_norm", (_X, torch.ones(5, 8), _W), "shape of residual"
        ),
        ("fused_add_gemma_rms_norm", (_X, _X.clone(), _W.half()), "weight must be"),
        ("layer_norm", (_X, _X, _W, _W[:4]), "bias must be .8"),
        ("nemotron_layer_norm", (_X, _X, _W, _W.half()), "bias must be float32"),
        ("fused_add_layer_norm", (_X, _X.clone(), _W[:4], None), "weight must be"),
    ],
)
def test_what_the_kernels_refuse_is_refused(
    name: str, arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        op(name)(*arguments, 1e-6)


@in_pytorch_only
def test_refused_rows_leave_the_residual_as_it_is() -> None:
    """Catches a residual that is added to before the input's rows are looked at."""
    residual = torch.zeros(2, 3, 4)
    uneven = torch.ones(3, 2, 4).transpose(0, 1)
    with pytest.raises(RuntimeError):
        op("fused_add_rms_norm")(uneven, residual, None, 1e-6)
    assert not residual.any()
