# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.weights: what is kept of a converted weight."""

import torch

from vllm_xpu_fp8_plugin.reference.weights import converted


def test_a_weight_converted_in_two_ways_is_two() -> None:
    """Catches int4 weights rounded for one op that are given to the other."""
    source = torch.tensor([[0.3, 1.7]])
    ways = {"exact": lambda: source.float(), "rounded": source.round}
    for _ in range(2):
        for how, convert in ways.items():
            assert torch.equal(converted((source,), convert, how), convert())


def test_a_weight_is_converted_again_once_it_changes() -> None:
    """Catches a weight that was loaded again, and the old one still used."""
    source, calls = torch.ones(1, 2), []

    def convert() -> torch.Tensor:
        calls.append(source.clone())
        return source * 2

    for _ in range(2):
        assert converted((source,), convert).tolist() == [[2, 2]]
    assert len(calls) == 1
    source.fill_(3)
    assert converted((source,), convert).tolist() == [[6, 6]]
