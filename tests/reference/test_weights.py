# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.weights: what is kept of a converted weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_xpu_fp8_plugin.reference.weights import _sums, converted


def test_a_weight_converted_in_two_ways_is_two() -> None:
    """Catches int4 weights rounded for one op that are given to the other."""
    source = torch.tensor([[0.3, 1.7]])
    ways = {"exact": lambda: source.float(), "rounded": source.round}
    for _ in range(2):
        for how, convert in ways.items():
            assert torch.equal(converted((source,), convert, how), convert())


def write(source: torch.Tensor, value: torch.Tensor, how: str) -> None:
    {"itself": source, "data": source.data, "alias": source.view(-1).view_as(source)}[
        how
    ].copy_(value)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("how", ["itself", "data", "alias"])
def test_a_weight_is_converted_again_once_it_changes(how: str, inference: bool) -> None:
    """Catches a weight that was loaded again, and the old one still used."""
    with torch.inference_mode(inference):
        source, calls = torch.ones(1, 2), []

        def convert() -> torch.Tensor:
            calls.append(source.clone())
            return source * 2

        for _ in range(2):
            assert converted((source,), convert).tolist() == [[2, 2]]
        assert len(calls) == 1
        write(source, torch.full((1, 2), 3.0), how)
        assert converted((source,), convert).tolist() == [[6, 6]]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint8, torch.float16])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (96, 128), (2, 130, 67)])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_sums_see_every_value_and_its_place(
    shape: tuple[int, ...], dtype: torch.dtype, data: st.DataObject
) -> None:
    """Catches an end that is not read, and two values that have changed places."""
    values = torch.randint(0, 120, shape).to(dtype)
    flat = values.view(-1)
    first, second = (
        data.draw(st.integers(0, flat.numel() - 1), label=name)
        for name in ("first", "second")
    )
    before = _sums(values)
    other = values.clone()
    a, b = flat[first].float().item(), flat[second].float().item()
    other.view(-1)[first], other.view(-1)[second] = b, a
    assert torch.equal(_sums(other), before) == (a == b)
    other.copy_(values)
    other.view(-1)[first] = a + 8 if a < 100 else 0
    assert not torch.equal(_sums(other), before)


@pytest.mark.parametrize("size", [8, 4096])
def test_sums_see_parts_that_have_changed_places(size: int) -> None:
    """Catches experts swapped, whose columns add up to the same."""
    experts = torch.randint(0, 256, (4, size), dtype=torch.uint8)
    assert not torch.equal(_sums(experts[[1, 0, 2, 3]]), _sums(experts))


def test_sums_are_of_a_view_of_any_strides_and_of_it_alone() -> None:
    """Catches a slice that is taken for its whole, or a view that does not reach."""
    whole = torch.zeros(6, 40, 33, dtype=torch.uint8)
    parts = [whole[2].t(), whole[2, :, 1:], whole[2, ::2], whole[2, 1:, 5]]
    before = [_sums(part) for part in parts]
    whole[3] = 1
    assert all(torch.equal(_sums(p), b) for p, b in zip(parts, before, strict=True))
    whole[2, 2, 5] = 1
    assert not any(torch.equal(_sums(p), b) for p, b in zip(parts, before, strict=True))
