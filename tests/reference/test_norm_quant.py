# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.norm_quant and .scale_layout, through torch's ops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference.memory import is_poison, poisoned
from tests.reference.ops import Ops, in_pytorch_only, refused, unchecked
from tests.reference.oracle_fp8 import (
    expand,
    is_int8,
    is_nearest,
    scale_is_right,
)

ops = Ops("_C")
pytestmark = pytest.mark.usefixtures("how")

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
FP8 = st.sampled_from([torch.float8_e4m3fn, torch.float8_e5m2])
FLOATS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
E4M3_OR_INT8 = st.sampled_from([torch.float8_e4m3fn, torch.int8])
MAGNITUDES = st.sampled_from([0.0, 1e-4, 1.0, 100.0])
EPSILON = 1e-5


def rows_of(
    shape: tuple[int, ...], dtype: torch.dtype, magnitude: float, padding: int
) -> Tensor:
    """Return random values in rows that are `padding` apart."""
    values = magnitude * torch.randn(*shape[:-1], shape[-1] + padding)
    return values.to(dtype)[..., : shape[-1]]


def normalized(x: Tensor) -> Tensor:
    """Return ``x / sqrt(mean(x ** 2) + epsilon)`` of each row in float64."""
    x = x.double()
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPSILON)


@PROPERTY
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=2),
    st.sampled_from([1, 8, 36, 130]),
    FLOATS,
    FP8,
    MAGNITUDES,
    st.sampled_from([0, 3, 8]),
    st.booleans(),
    st.integers(0, 99),
)
def test_norm_with_a_given_scale(
    lead: list[int],
    k: int,
    dtype: torch.dtype,
    fp8: torch.dtype,
    magnitude: float,
    padding: int,
    add: bool,
    seed: int,
) -> None:
    """Catches a wrong mean, weight or stride, a result that is rounded twice."""
    torch.manual_seed(seed)
    x = rows_of((*lead, k), dtype, magnitude, padding)
    if not add and len(lead) == 1:
        # The rows of one head of several.
        x = rows_of((*lead, 2, k), dtype, magnitude, padding)[:, 0]
    weight, scale = torch.randn(k).to(dtype), torch.rand(1) + 0.1
    memory = poisoned((x.numel() + 2,), fp8)
    result = memory[1:-1].view(x.shape)
    if add:
        residual = torch.randn(*lead, k).to(dtype)
        total = (x.double() + residual.double()).to(dtype)
        before = x.clone()
        ops.fused_add_rms_norm_static_fp8_quant(
            result, x, residual, weight, scale, EPSILON
        )
        assert torch.equal(residual, total) and torch.equal(x, before)
        x = total
    else:
        ops.rms_norm_static_fp8_quant(result, x, weight, scale, EPSILON)
    exact = normalized(x) * weight.double() / scale.double()
    assert is_nearest(result, exact, slack=1e-6)
    assert is_poison(memory[:1]) and is_poison(memory[-1:])


def operands(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    magnitude: float,
    padding: int,
    add: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Return input, residual, weight, and the exact norm of their sum."""
    x = rows_of(shape, dtype, magnitude, padding)
    weight = torch.randn(shape[-1]).to(dtype)
    residual = torch.randn(shape).to(dtype) if add else None
    total = x if residual is None else (x.double() + residual.double()).to(dtype)
    exact = normalized(total) * weight.double()
    return x, residual, weight, exact.view(-1, shape[-1])


@PROPERTY
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=2),
    st.sampled_from([1, 8, 36, 130]),
    FLOATS,
    E4M3_OR_INT8,
    MAGNITUDES,
    st.booleans(),
    st.sampled_from([None, 1e-6, 0.5, 1e3]),
    st.integers(0, 99),
)
def test_norm_with_a_scale_a_row(
    lead: list[int],
    k: int,
    dtype: torch.dtype,
    quantized: torch.dtype,
    magnitude: float,
    add: bool,
    bound: float | None,
    seed: int,
) -> None:
    """Catches a wrong scale or bound, a norm that is rounded, a residual not added."""
    torch.manual_seed(seed)
    shape = (*lead, k)
    x, residual, weight, exact = operands(shape, dtype, magnitude, 0, add)
    before = None if residual is None else (residual.double() + x.double()).to(dtype)
    result = poisoned(shape, quantized)
    memory = poisoned((len(exact) + 1, 1), torch.float32)
    scale = memory[:-1]
    is_fp8 = quantized != torch.int8
    upper = torch.tensor([bound]) if bound and is_fp8 else None
    ops.rms_norm_dynamic_per_token_quant(
        result, x, weight, scale, EPSILON, upper, residual
    )
    amax = exact.abs().amax(-1, keepdim=True)
    if is_fp8:
        assert scale_is_right(scale, amax.clamp(max=bound or torch.inf), quantized)
        assert is_nearest(result.view(exact.shape), exact / scale.double(), slack=1e-6)
    else:
        assert int8_scale_is_right(scale, amax)
        assert is_int8(result.view(exact.shape), exact / scale.double())
    assert residual is None or torch.equal(residual, before)
    assert is_poison(memory[-1:])


def int8_scale_is_right(scale: Tensor, amax: Tensor) -> bool:
    expected = torch.where(amax > 0, amax / 127, 1.0)
    return bool(((scale.double() / expected - 1).abs() < 3e-6).all())


@PROPERTY
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 3)),
    st.sampled_from([1, 4, 32]),
    FLOATS,
    E4M3_OR_INT8,
    MAGNITUDES,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 8]),
    st.integers(0, 99),
)
def test_norm_with_a_scale_a_group(
    sizes: tuple[int, int],
    lanes: int,
    dtype: torch.dtype,
    quantized: torch.dtype,
    magnitude: float,
    add: bool,
    transposed: bool,
    ue8m0: bool,
    padding: int,
    seed: int,
) -> None:
    """Catches a wrong group, power of two or order, a mean over a group."""
    torch.manual_seed(seed)
    m, groups = sizes
    group = lanes * 16 // dtype.itemsize
    shape = (m, groups * group)
    x, residual, weight, exact = operands(shape, dtype, magnitude, padding, add)
    before = None if residual is None else (residual.double() + x.double()).to(dtype)
    result = poisoned(shape, quantized)
    memory = poisoned((m * groups + 2,), torch.float32)
    compact = memory[1:-1]
    scale = compact.view(groups, m).t() if transposed else compact.view(m, groups)
    is_fp8 = quantized != torch.int8
    options = (group, transposed, ue8m0 and is_fp8)
    ops.rms_norm_per_block_quant(
        result, x, weight, scale, EPSILON, None, residual, *options
    )
    amax = exact.view(m, groups, group).abs().amax(-1)
    if is_fp8:
        assert scale_is_right(scale, amax, quantized, ue8m0)
        assert is_nearest(result, exact / expand(scale, shape), slack=1e-6)
    else:
        assert int8_scale_is_right(scale, amax)
        assert is_int8(result, exact / expand(scale, shape))
    assert residual is None or torch.equal(residual, before)
    assert is_poison(memory[:1]) and is_poison(memory[-1:])


def test_no_tokens_are_quantised_to_none() -> None:
    """Catches a reduction over nothing, which raises."""
    x, q = torch.empty(0, 64), torch.empty(0, 64, dtype=torch.float8_e4m3fn)
    weight, scale = torch.ones(64), torch.empty(0, 1)
    ops.rms_norm_static_fp8_quant(q, x, weight, torch.ones(1), EPSILON)
    ops.rms_norm_dynamic_per_token_quant(q, x, weight, scale, EPSILON, None, None)
    ops.rms_norm_per_block_quant(
        q, x, weight, scale, EPSILON, None, None, 64, False, False
    )


@in_pytorch_only
def test_what_the_kernel_ignores_is_not_hidden() -> None:
    """Catches a bound that is applied here and ignored on a real XPU."""
    with pytest.raises(NotImplementedError, match="computes without it"):
        ops.rms_norm_per_block_quant(_Q, _X, _W, _S, EPSILON, _ONE, None, *_GROUP)


_X, _Q = torch.ones(4, 64), torch.empty(4, 64, dtype=torch.float8_e4m3fn)
_I8, _E5M2 = _Q.view(torch.int8), _Q.view(torch.float8_e5m2)
_W, _ONE, _S, _FOUR = torch.ones(64), torch.ones(1), torch.ones(4, 2), torch.ones(4, 1)
_GROUP = (32, False, False)
_STATIC, _ADD = "rms_norm_static_fp8_quant", "fused_add_rms_norm_static_fp8_quant"
_TOKEN, _BLOCK = "rms_norm_dynamic_per_token_quant", "rms_norm_per_block_quant"
_E = EPSILON


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (_STATIC, (_Q, _X.int(), _W, _ONE, _E), "input must be"),
        (_STATIC, (_Q, _X, _W.half(), _ONE, _E), "weight must be"),
        (_STATIC, (_I8, _X, _W, _ONE, _E), "result must be"),
        (_STATIC, (_Q, _X, _W, _ONE.half(), _E), "scale must be"),
        (_STATIC, (_Q[:, :60], _X[:, :60], _W[:60], _ONE, _E), "contiguous"),
        unchecked(_STATIC, (_Q, _X, _W[:60], _ONE, _E), "weight"),
        unchecked(_STATIC, (_Q, torch.ones(64, 4).t(), _W, _ONE, _E), "contiguous"),
        (_ADD, (_Q, _X, _X.half(), _W, _ONE, _E), "residual must be"),
        (_ADD, (_Q, _X, torch.ones(64, 4).t(), _W, _ONE, _E), "residual must be"),
        unchecked(_ADD, (_Q, _X, _X[:3], _W, _ONE, _E), "of the shape of input"),
        unchecked(
            _ADD, (_Q, _X, _X.view(64, 4), _W, _ONE, _E), "of the shape of input"
        ),
        unchecked(
            _TOKEN, (_Q, _X, _W, _FOUR, _E, None, _X.view(1, 4, 64)), "of the shape of"
        ),
        (_TOKEN, (_E5M2, _X, _W, _FOUR, _E, None, None), "result must be"),
        (_TOKEN, (_Q, _X, _W, _FOUR.half(), _E, None, None), "scale must be"),
        (_TOKEN, (_I8, _X, _W, _FOUR, _E, _ONE, None), "only supported for FP8"),
        (_TOKEN, (_Q, _X, _W, _FOUR, _E, _ONE.half(), None), "scale_ub must be"),
        (
            _TOKEN,
            (_Q, torch.ones(4, 65)[:, :64], _W, _FOUR, _E, None, None),
            "input must be contiguous",
        ),
        (_BLOCK, (_E5M2, _X, _W, _S, _E, None, None, *_GROUP), "result must be"),
        unchecked(
            _BLOCK, (_Q, _X, _W, _S[:3], _E, None, None, *_GROUP), "6 scales for 4"
        ),
        (_BLOCK, (_Q, _X, _W, _S, _E, None, None, 48, False, False), "divisible by"),
        unchecked(
            _BLOCK, (_Q, _X, _W, _S, _E, None, None, 2, False, False), "power of two"
        ),
        (_BLOCK, (_I8, _X, _W, _S, _E, None, None, 32, False, True), "scale_ue8m0"),
    ],
)
def test_what_the_kernels_refuse_is_refused(
    op: str, arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        getattr(ops, op)(*arguments)
