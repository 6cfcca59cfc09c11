# SPDX-License-Identifier: Apache-2.0
"""Oracles against values that others have published, and by hand."""

import numpy as np
import torch

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected, compare
from vllm_xpu_fp8_plugin.check.ops.deepseek import deepseek_inv_rope_fp8_quant
from vllm_xpu_fp8_plugin.check.ops.exponential import philox
from vllm_xpu_fp8_plugin.check.ops.moe_align import moe_align_block_size
from vllm_xpu_fp8_plugin.check.ops.moe_remap import remap_hidden_states


def test_philox_gives_the_published_words() -> None:
    """Catches a generator of our own making: known answers of Random123."""
    largest = 0xFFFFFFFF
    for word, seed, known in (
        (0, 0, ("6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8")),
        (largest, 2**64 - 1, ("408f276d", "41c83b0e", "a20bc7c6", "6d5451fd")),
    ):
        words = philox([np.array([word], dtype=np.uint64)] * 4, seed)
        assert tuple(f"{int(x[0]):08x}" for x in words) == known


def test_tokens_are_laid_out_by_expert() -> None:
    """Catches another layout than that of vLLM's own example, or a fixed order."""
    ids = torch.tensor([[2, 3, 0], [1, 2, 0], [1, 3, 0], [1, 2, 3]]).int()
    empty = [torch.empty(n).int() for n in (24, 6, 1)]
    found = moe_align_block_size(ids, 4, 4, *empty)
    tokens = [2, 5, 8, 12, 3, 6, 9, 12, 0, 4, 10, 12, 1, 7, 11, 12]
    rest = [12] * 8
    assert found["sorted_token_ids"].values.tolist() == tokens + rest
    assert found["experts_ids"].values.tolist() == [0, 1, 2, 3, 0, 0]
    assert found["num_tokens_post_pad"].values.tolist() == [16]
    other = torch.tensor([8, 5, 2, *tokens[3:], *rest]).int()
    assert not compare(other, found["sorted_token_ids"], other).wrong.any()
    other[[2, 4]] = other[[4, 2]]
    assert compare(other, found["sorted_token_ids"], other).wrong.any()


def test_a_token_of_no_expert_is_laid_out_nowhere() -> None:
    """Catches an id beyond the experts that becomes the first expert's."""
    ids, local = torch.tensor([[0], [9], [-1]]).int(), torch.arange(4).int()
    empty = [torch.empty(n).int() for n in (4, 2, 1)]
    found = moe_align_block_size(ids, 4, 2, *empty, local)
    assert found["sorted_token_ids"].values.tolist() == [0, 3, 3, 3]
    assert found["num_tokens_post_pad"].values.tolist() == [2]


def test_rows_go_to_their_experts() -> None:
    """Catches a row of another token, and a token of another device that has one."""
    ids = torch.tensor([[1, 3], [0, 1]])
    rows, remapped = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(4, 2)
    where, counts = torch.zeros(2, 2).int(), torch.zeros(2).int()
    local = torch.tensor([0, 1, -1, -1]).int()
    found = remap_hidden_states(
        rows, None, remapped, None, local, counts, where, ids, 4, 2
    )
    assert found["rows_per_expert"].values.tolist() == [1, 2]
    assert found["unpermuted_row_to_permuted_row"].values.tolist() == [[1, -1], [0, 2]]
    expected = found["remapped_hidden_states"]
    right = torch.tensor([[3.0, 4.0], [1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    swapped = right[[0, 2, 1, 3]]
    for got in (right, swapped):
        assert not compare(got, expected, remapped).wrong.any()
    for rows_of in ([1, 0, 2, 3], [0, 1, 1, 3]):
        assert compare(right[rows_of], expected, remapped).wrong.any()


def test_a_blocks_scale_is_the_least_power_of_two() -> None:
    """Catches a scale of twice the size where the largest value is the limit's."""
    heads = torch.zeros(1, 1, 512).bfloat16()
    heads[0, 0, ::128] = torch.tensor([448.0, 450.0, 224.0, 0.0]).bfloat16()
    turns = torch.tensor([1.0, 0.0]).repeat_interleave(32)[None]
    found = deepseek_inv_rope_fp8_quant(heads, torch.tensor([0]), turns, 1, 1, 448, 64)
    scales = found["return.1"].values.flatten()
    assert scales[:3].tolist() == [1.0, 2.0, 0.5]
    assert 0 < scales[3] <= 2e-10 / 448
    codes = found["return.0"]
    right = codes.values.to(making.E4M3)
    assert not compare(right, codes, right).wrong.any()
    assert compare(right.roll(1, -1), codes, right).wrong.any()


def test_values_of_two_sets_are_told_apart() -> None:
    """Catches sets that hide a value of the wrong one."""
    sets = torch.tensor([0, 0, 1, 1])
    expected = Expected(torch.tensor([1, 2, 3, 4]), sets=sets)
    assert not compare(torch.tensor([2, 1, 4, 3]), expected, sets).wrong.any()
    assert compare(torch.tensor([1, 3, 2, 4]), expected, sets).wrong.any()
