# SPDX-License-Identifier: Apache-2.0
"""What counts as right."""

import pytest
import torch

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected, compare, spacing
from vllm_xpu_fp8_plugin.check.ops.attention import varlen_fwd
from vllm_xpu_fp8_plugin.check.registry import specs

DTYPES = (torch.float16, torch.bfloat16, torch.float32, making.E4M3, making.E5M2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearest_value_is_right_and_the_next_is_not(dtype: torch.dtype) -> None:
    """Catches a bound of the wrong size: of another binade, or of a subnormal."""
    exact = torch.logspace(-9, 2, 500, dtype=torch.float64)
    exact = exact * torch.tensor([1.0, -1.0]).repeat(250)
    nearest = exact.to(dtype)
    found = compare(nearest, Expected(exact), nearest)
    assert not found.wrong.any() and found.ulps <= 0.5 + 1e-3
    # A step of the next binade is two.
    steps = 32 if dtype == torch.float32 else 2
    away = torch.where(nearest.double() >= exact, 1, -1)
    off = nearest.double() + away * steps * spacing(exact, dtype)
    there = off.abs() < torch.finfo(dtype).max
    farther = compare(off.to(dtype), Expected(exact), nearest)
    assert farther.wrong[there].all()


def test_what_should_stay_is_compared_with_what_was() -> None:
    """Catches a write beside the slots that is not seen."""
    before = torch.full((4, 2), 3.0)
    written = torch.tensor([True, False, False, True])[:, None].expand(4, 2)
    values = torch.ones(4, 2).double()
    expected = Expected(values, written=written)
    got = before.where(~written, 1.0)
    assert not compare(got, expected, before).wrong.any()
    got[1, 0] = 1.0
    assert compare(got, expected, before).wrong.nonzero().tolist() == [[1, 0]]


def test_saturation_and_infinity() -> None:
    """Catches a code that should be the largest, and an overflow taken for wrong."""
    exact = torch.tensor([1e4, -1e4, 448.0]).double()
    got = torch.tensor([448.0, -448.0, 448.0]).to(making.E4M3)
    assert not compare(got, Expected(exact), got).wrong.any()
    big = torch.tensor([1e6, 7e4]).double()
    infinite = torch.tensor([torch.inf, torch.inf]).half()
    assert not compare(infinite, Expected(big), infinite).wrong.any()
    assert compare(torch.zeros(2).half(), Expected(big), infinite).wrong.all()


def test_infinity_is_a_value() -> None:
    """Catches a mask's -inf that may be anything, since a part of it is infinite."""
    exact = torch.tensor([-torch.inf, torch.inf]).double()
    got = exact.float()
    assert not compare(got, Expected(exact), got).wrong.any()
    for other in ([0.0, 0.0], [torch.inf, -torch.inf], [torch.nan, torch.nan]):
        assert compare(torch.tensor(other), Expected(exact), got).wrong.all()


def test_attention_agrees_with_torch() -> None:
    """Catches an oracle that is wrong itself: causal mask, groups, scale."""
    q = torch.randn(5, 4, 32).half()
    k, v = torch.randn(2, 9, 2, 32).half()
    starts = torch.tensor([0, 5]).int(), torch.tensor([0, 9]).int()
    wanted = varlen_fwd(
        q, k, v, None, *starts, softmax_scale=0.3, is_causal=True,
        window_size_left=-1, window_size_right=-1,
    )["return.0"].values  # fmt: skip
    mask = torch.ones(5, 9).tril(4).bool()
    operands = [x.double().transpose(0, 1)[None] for x in (q, k, v)]
    other = torch.nn.functional.scaled_dot_product_attention(
        *operands, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    assert torch.allclose(wanted, other[0].transpose(0, 1))


def test_every_op_has_cases_that_its_oracle_takes() -> None:
    """Catches a case that names no argument of the oracle, and an op without cases."""
    for name, spec in specs().items():
        making.seed(0)
        arguments = next(iter(spec.cases()))
        assert spec.oracle(**arguments), name
