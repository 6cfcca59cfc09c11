# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.fp8_quant and .fp8, through torch's ops."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference.memory import is_poison, poisoned
from tests.reference.ops import COMPILED, Ops, in_pytorch_only, refused, unchecked
from tests.reference.oracle_fp8 import LIMITS, expand, is_nearest, magnitudes, nearest
from vllm_xpu_fp8_plugin.reference.fp8 import from_fp8, to_fp8

ops = Ops("_C")
pytestmark = pytest.mark.usefixtures("how")

PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@st.composite
def inputs(draw: st.DrawFn, groups: int = 1) -> Tensor:
    """Draw ``[rows, K]`` of a type and strides, with zeros, large and small values."""
    rows = draw(st.integers(1, 9))
    k = draw(st.integers(1, 6)) * draw(st.sampled_from([4, 8, 9])) * groups
    dtype = draw(st.sampled_from(FLOATS))
    torch.manual_seed(draw(st.integers(0, 99)))
    padding = draw(st.sampled_from([0, 3]))
    values = torch.randn(rows, k + padding) * draw(st.sampled_from([1e-3, 1.0, 300.0]))
    values[draw(st.integers(0, rows - 1))] *= draw(st.sampled_from([0.0, 1.0, 10.0]))
    return values.to(dtype)[:, :k]


@pytest.mark.parametrize("dtype", FP8)
def test_every_fp8_value_and_midpoint_rounds_to_even(dtype: torch.dtype) -> None:
    """Catches rounding that is not to nearest even, and flushed subnormals."""
    table = magnitudes(dtype)
    middle = (table[1:] + table[:-1]) / 2
    just = torch.tensor([1 - 2e-7, 1.0, 1 + 2e-7], dtype=torch.float64)
    values = torch.cat([table, (middle[:, None] * just).flatten()])
    values = torch.cat([values, -values]).float()
    assert torch.equal(to_fp8(values, dtype).double(), nearest(values, dtype))


@pytest.mark.parametrize("dtype", FP8)
def test_overflow_infinity_and_nan_give_the_largest_value(dtype: torch.dtype) -> None:
    """Catches an Inf or NaN where the kernels saturate."""
    values = torch.tensor([math.inf, -math.inf, math.nan, 1e9, -1e9])
    expected = torch.tensor([1, -1, 1, 1, -1]) * LIMITS[dtype]
    assert torch.equal(to_fp8(values, dtype).float(), expected)


@pytest.mark.parametrize("dtype", FP8)
def test_every_byte_is_read_by_its_definition(dtype: torch.dtype) -> None:
    """Catches a wrong table of FP8 values."""
    codes = torch.arange(256, dtype=torch.uint8)
    values = from_fp8(codes.view(dtype).view(2, 128), torch.tensor([2.0])).double()
    table = magnitudes(dtype)
    assert torch.equal(values[0, : len(table)], 2 * table)
    assert torch.equal(values[1, : len(table)], -2 * table)
    # e4m3 has one code left, NaN; e5m2 has infinity and three NaN.
    rest = [math.nan] if dtype == torch.float8_e4m3fn else [math.inf, *[math.nan] * 3]
    special = torch.tensor([rest, [-v for v in rest]], dtype=torch.float64)
    assert torch.allclose(values[:, len(table) :], special, equal_nan=True)


@PROPERTY
@given(inputs(), st.sampled_from(FP8), st.sampled_from([0, 2]))
def test_dynamic_quantisation_of_a_tensor(
    x: Tensor, dtype: torch.dtype, pad: int
) -> None:
    """Catches a wrong scale, rounding or stride, and writes beyond the rows."""
    q = poisoned((x.shape[0] + pad, x.shape[1]), dtype)
    scale = poisoned((1,), torch.float32)
    ops.dynamic_scaled_fp8_quant(q, x, scale)
    expected = x.double().abs().max().item() / LIMITS[dtype]
    assert scale.item() == pytest.approx(expected, rel=1e-6)
    if expected:
        assert is_nearest(q[: x.shape[0]], x.double() / scale.double())
    assert is_poison(q[x.shape[0] :])


@PROPERTY
@given(
    inputs(), st.sampled_from(FP8), st.sampled_from([None, 0.5, 1e3]), st.integers(0, 2)
)
def test_dynamic_quantisation_of_tokens(
    x: Tensor, dtype: torch.dtype, bound: float | None, pad: int
) -> None:
    """Catches a wrong scale, upper or lower bound, and writes beyond the rows."""
    rows, x = x.shape[0], x.contiguous()
    q = poisoned((rows + pad, x.shape[1]), dtype)
    scale = poisoned((rows + pad, 1), torch.float32)
    upper = None if bound is None else torch.tensor([bound])
    ops.dynamic_per_token_scaled_fp8_quant(q, x, scale, upper)
    limit = LIMITS[dtype]
    for row in range(rows):
        amax = min(x[row].double().abs().max().item(), bound or math.inf)
        expected = max(amax / limit, 1 / (limit * 512))
        assert scale[row].item() == pytest.approx(expected, rel=1e-6)
    assert is_nearest(q[:rows], x.double() / scale[:rows].double())
    assert is_poison(q[rows:]) and is_poison(scale[rows:])


@PROPERTY
@given(
    inputs(groups=2),
    st.sampled_from(FP8),
    st.sampled_from(
        ["tensor", "row", "column", "rows", "columns", "blocks", "strided"]
    ),
)
def test_static_quantisation(x: Tensor, dtype: torch.dtype, kind: str) -> None:
    """Catches a scale that is applied to the wrong rows or columns."""
    m, k = x.shape
    shape, group = {
        "tensor": ((1, 1), None),
        "row": ((m, 1), (1, -1)),
        "column": ((1, k), (-1, 1)),
        "rows": ((m, 1), None),
        "columns": ((1, 2), (-1, k // 2)),
        "blocks": ((m, 2), (1, k // 2)),
        "strided": ((m, 2), None),
    }[kind]
    scale = torch.rand(shape) + 0.1
    q = poisoned((m + 1, k), dtype)
    argument = scale
    if kind in ("row", "column", "tensor"):
        argument = scale.flatten()
    elif kind == "strided":
        argument = scale.t().contiguous().t()
    ops.static_scaled_fp8_quant(q, x, argument, group)
    assert is_nearest(q[:m], x.double() / expand(scale, (m, k)))
    assert is_poison(q[m:])


@PROPERTY
@given(
    inputs(groups=2),
    st.sampled_from(FP8),
    st.sampled_from(["row", "column", "padded"]),
    st.booleans(),
)
def test_quantisation_of_groups(
    x: Tensor, dtype: torch.dtype, layout: str, ue8m0: bool
) -> None:
    """Catches a wrong group, power of two or layout of the scales."""
    x = x.contiguous()
    (m, k), limit = x.shape, LIMITS[dtype]
    size = k // 2
    lanes = size * x.itemsize / 16
    # The kernel exchanges maxima between as many lanes as a power of two.
    assume(Ops.how != COMPILED or not lanes.is_integer() or math.log2(lanes) % 1 == 0)
    if layout == "row":
        memory = poisoned((m, 2), torch.float32)
        scale = memory
    else:
        stride = m if layout == "column" else m + 3
        memory = poisoned((2, stride), torch.float32)
        scale = memory[:, :m].t()
    q = poisoned((m, k), dtype)
    ops.per_token_group_fp8_quant(
        x, q, scale, size, 1e-10, -limit, limit, ue8m0, layout != "row", False
    )
    for row in range(m):
        for g in range(2):
            amax = x[row, g * size : (g + 1) * size].double().abs().max().item()
            expected = max(amax / limit, 1 / (limit * 512))
            got = scale[row, g].item()
            if ue8m0:
                assert math.frexp(got)[0] == 0.5, "not a power of two"
                assert got / 2 < expected * (1 + 1e-6) and got > expected * (1 - 1e-6)
            else:
                assert got == pytest.approx(expected, rel=1e-6)
    assert is_nearest(q, x.double() / expand(scale, (m, k)))
    if layout == "padded":
        assert is_poison(memory[:, m:])


def test_zeros_have_a_scale_but_for_a_whole_tensor() -> None:
    """Catches a lower bound where the kernel has none, or none where it has one."""
    x, q = torch.zeros(2, 4), poisoned((2, 4), torch.float8_e4m3fn)
    scale = poisoned((2, 1), torch.float32)
    ops.dynamic_per_token_scaled_fp8_quant(q, x, scale, None)
    assert scale.tolist() == [[pytest.approx(1 / (448 * 512))]] * 2
    assert not q.float().any()
    ops.dynamic_scaled_fp8_quant(q, x, scale[:1, 0])
    assert scale[0].item() == 0 and (q.float() == 448).all()


@in_pytorch_only
def test_no_tokens_are_quantised_to_none() -> None:
    """Catches a reduction over nothing, which raises."""
    x, q = torch.zeros(0, 8), torch.empty(0, 8, dtype=torch.float8_e4m3fn)
    ops.static_scaled_fp8_quant(q, x, torch.ones(1), None)
    ops.dynamic_scaled_fp8_quant(q, x, torch.ones(1))
    ops.dynamic_per_token_scaled_fp8_quant(q, x, torch.ones(0, 1), None)
    ops.per_token_group_fp8_quant(
        x, q, torch.ones(0, 2), 4, 1e-10, -448.0, 448.0, False, False, False
    )


def test_nan_does_not_spoil_the_scale_of_a_row() -> None:
    """Catches a NaN scale: the kernels' maximum leaves NaN out."""
    x = torch.tensor([[1.0, math.nan, -2.0, 0.5]])
    q, scale = poisoned((1, 4), torch.float8_e4m3fn), torch.empty(1, 1)
    ops.dynamic_per_token_scaled_fp8_quant(q, x, scale, None)
    assert scale.item() == pytest.approx(2 / 448)
    assert q.float().tolist() == [[224, 448, -448, 112]]


_X, _Q = torch.ones(4, 8), torch.empty(4, 8, dtype=torch.float8_e4m3fn)
_ONE, _FOUR = torch.ones(1), torch.ones(4, 1)
_GROUP = (4, 1e-10, -448.0, 448.0, False, False, False)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("static_scaled_fp8_quant", (_Q, _X.int(), _ONE, None), "input must be"),
        ("static_scaled_fp8_quant", (_X.clone(), _X, _ONE, None), "result must be"),
        ("static_scaled_fp8_quant", (_Q, _X, _ONE.double(), None), "scale must be"),
        ("static_scaled_fp8_quant", (_Q, _X, torch.ones(8), None), "1D scale"),
        ("static_scaled_fp8_quant", (_Q, _X, torch.ones(3), (-1, 1)), "not match"),
        ("static_scaled_fp8_quant", (_Q, _X, torch.ones(3, 1), None), "not divide"),
        ("static_scaled_fp8_quant", (_Q, _X, torch.ones(2, 2), (1, 4)), "not match"),
        ("static_scaled_fp8_quant", (_Q, _X, torch.ones(2, 2, 2), None), "3D"),
        ("static_scaled_fp8_quant", (_Q.t(), _X.t(), _ONE, None), "contiguous"),
        unchecked("dynamic_scaled_fp8_quant", (_Q[:2], _X, _ONE), "has shape"),
        ("dynamic_scaled_fp8_quant", (_Q, _X, _ONE.half()), "scale must be"),
        ("dynamic_per_token_scaled_fp8_quant", (_Q, _X.t(), _FOUR, None), "contiguous"),
        unchecked("dynamic_per_token_scaled_fp8_quant", (_Q, _X, _ONE, None), "4 rows"),
        ("per_token_group_fp8_quant", (_X, _Q, torch.ones(4, 2), 3, *_GROUP[1:]), "3"),
        ("per_token_group_fp8_quant", (_X, _Q, torch.ones(8), *_GROUP), "2D"),
        ("per_token_group_fp8_quant", (_X, _X.clone(), _FOUR, *_GROUP), "output_q"),
        ("per_token_group_fp8_quant", (_X[:, :4], _Q[:, :4], _FOUR, *_GROUP), "contig"),
    ],
)
def test_what_the_kernels_refuse_is_refused(
    op: str, arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        getattr(ops, op)(*arguments)
