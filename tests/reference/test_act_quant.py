# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.act_quant and .scale_layout, through torch's ops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference.memory import is_poison, poisoned
from tests.reference.ops import Ops, refused, unchecked
from tests.reference.oracle_fp8 import (
    LIMITS,
    expand,
    is_int8,
    is_nearest,
    rounded,
    scale_is_right,
)

ops = Ops("_C")
pytestmark = pytest.mark.usefixtures("how")

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
FP8 = st.sampled_from([torch.float8_e4m3fn, torch.float8_e5m2])
HALF = st.sampled_from([torch.float16, torch.bfloat16])
MAGNITUDES = st.sampled_from([0.0, 1e-3, 1.0, 50.0])


def silu(gate: Tensor) -> Tensor:
    """Return ``x / (1 + exp(-x))`` in float64."""
    gate = gate.double()
    return gate / (1 + torch.exp(-gate))


@PROPERTY
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.sampled_from([1, 8, 24, 50]),
    HALF,
    FP8,
    MAGNITUDES,
    st.integers(0, 99),
)
def test_silu_and_mul_with_a_given_scale(
    rows: list[int],
    d: int,
    half: torch.dtype,
    fp8: torch.dtype,
    magnitude: float,
    seed: int,
) -> None:
    """Catches gate and up swapped, and a rounding too few or too many."""
    torch.manual_seed(seed)
    x = (magnitude * torch.randn(*rows, 2 * d)).to(half)
    memory = poisoned((2 + x.numel() // 2,), fp8)
    result = memory[1:-1].view(*rows, d)
    scale = torch.rand(1) + 0.1
    ops.silu_and_mul_quant(result, x, scale)
    gate, up = x[..., :d], x[..., d:]
    # The activation is rounded to the input's type, and then the product.
    products = [(s.double() * up.double()).to(half) for s in rounded(silu(gate), half)]
    assert is_nearest(result, *(p.double() / scale.double() for p in products))
    assert is_poison(memory[:1]) and is_poison(memory[-1:])


@PROPERTY
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 3)),
    st.sampled_from([32, 64, 128]),
    HALF,
    st.sampled_from([torch.float8_e4m3fn, torch.float8_e5m2, torch.int8]),
    st.sampled_from([None, 1e-9, 0.02, 1e3]),
    st.booleans(),
    st.booleans(),
    MAGNITUDES,
    st.integers(0, 99),
)
def test_silu_and_mul_with_a_scale_a_group(
    sizes: tuple[int, int],
    group: int,
    half: torch.dtype,
    dtype: torch.dtype,
    bound: float | None,
    transposed: bool,
    ue8m0: bool,
    magnitude: float,
    seed: int,
) -> None:
    """Catches a wrong group, bound, power of two or order of the scales."""
    torch.manual_seed(seed)
    (m, groups), d = sizes, sizes[1] * group
    x = (magnitude * torch.randn(m, 2 * d)).to(half)
    out = poisoned((m, d), dtype)
    memory = poisoned((m * groups + 2,), torch.float32)
    compact = memory[1:-1]
    scales = compact.view(groups, m).t() if transposed else compact.view(m, groups)
    is_fp8 = dtype != torch.int8
    upper = torch.tensor([bound]) if bound and is_fp8 else None
    ops.silu_and_mul_per_block_quant(out, x, scales, group, upper, transposed, ue8m0)
    exact = silu(x[:, :d]) * x[:, d:].double()
    amax = exact.view(m, groups, group).abs().amax(-1)
    if is_fp8:
        # The bound is one of the scale.
        limit = torch.inf if upper is None else upper.item() * LIMITS[dtype]
        assert scale_is_right(scales, amax.clamp(max=limit), dtype, ue8m0)
        assert is_nearest(out, exact / expand(scales, (m, d)), slack=1e-6)
    else:
        expected = (amax / 127).clamp(min=2.0**-23)
        assert bool(((scales.double() / expected - 1).abs() < 3e-6).all())
        assert is_int8(out, exact / expand(scales, (m, d)))
    assert is_poison(memory[:1]) and is_poison(memory[-1:])


def test_scales_go_to_memory_as_told_and_not_by_their_strides() -> None:
    """Catches scales where vLLM, which pads their columns for TMA, finds them."""
    x, out = torch.randn(3, 128).half(), poisoned((3, 64), torch.float8_e4m3fn)
    scales = torch.empty(3, 2)
    ops.silu_and_mul_per_block_quant(out, x, scales, 32, None, False, False)
    memory = poisoned((2, 4), torch.float32)
    padded = memory[:, :3].t()
    ops.silu_and_mul_per_block_quant(out, x, padded, 32, None, True, False)
    assert torch.equal(memory.flatten()[:6].view(2, 3).t(), scales)
    assert is_poison(memory.flatten()[6:])


def test_no_tokens_are_quantised_to_none() -> None:
    """Catches a reduction over nothing, which raises."""
    x, out = torch.empty(0, 128).half(), torch.empty(0, 64, dtype=torch.float8_e4m3fn)
    ops.silu_and_mul_quant(out, x, torch.ones(1))
    scales = torch.empty(0, 2)
    ops.silu_and_mul_per_block_quant(out, x, scales, 32, None, False, False)


_X, _Q = torch.ones(4, 128).half(), torch.empty(4, 64, dtype=torch.float8_e4m3fn)
_ONE, _S = torch.ones(1), torch.ones(4, 2)
_I8 = torch.empty(4, 64, dtype=torch.int8)
_REST = (32, None, False, False)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("silu_and_mul_quant", (_Q, _X.float(), _ONE), "input must be"),
        ("silu_and_mul_quant", (_I8, _X, _ONE), "result must be"),
        ("silu_and_mul_quant", (_Q, _X, _ONE.half()), "scale must be"),
        unchecked("silu_and_mul_quant", (_Q[:, :60], _X, _ONE), "contiguous"),
        unchecked("silu_and_mul_quant", (_Q[:3], _X, _ONE), "twice as wide"),
        ("silu_and_mul_per_block_quant", (_Q, _X.float(), _S, *_REST), "input must"),
        ("silu_and_mul_per_block_quant", (_X, _X, _S, *_REST), "out must be"),
        ("silu_and_mul_per_block_quant", (_Q[0], _X[0], _S, *_REST), "2D"),
        ("silu_and_mul_per_block_quant", (_Q, _X, _S, 16, *_REST[1:]), "32, 64"),
        ("silu_and_mul_per_block_quant", (_Q, _X, _S, 128, *_REST[1:]), "divide 64"),
        ("silu_and_mul_per_block_quant", (_Q, _X, _S[:3], *_REST), "logical shape"),
        ("silu_and_mul_per_block_quant", (_Q, _X, _S.half(), *_REST), "scales must"),
        (
            "silu_and_mul_per_block_quant",
            (_I8, _X, _S, 32, _ONE, False, False),
            "only supported for FP8",
        ),
        (
            "silu_and_mul_per_block_quant",
            (_Q, _X, _S, 32, _ONE.half(), False, False),
            "scale_ub must be",
        ),
    ],
)
def test_what_the_kernels_refuse_is_refused(
    op: str, arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        getattr(ops, op)(*arguments)
