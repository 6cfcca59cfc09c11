# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts: tokens in the order of their experts.

Contract: csrc/moe/moe_align_sum_kernels.cpp of vllm-xpu-kernels. The order of one
expert's tokens is not promised: they are counted by atomic adds.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_INT = torch.int32


def _rounded(count: int, block: int) -> int:
    return -(-count // block) * block


def _blocks(experts: Tensor, num_experts: int, block: int, room: int) -> list[Tensor]:
    """Lay out tokens by expert, each expert's in whole blocks.

    Args:
        experts: [N], of each token its expert, -1 for none.
        num_experts: Of these blocks.
        block: Tokens of a block.
        room: Places.

    Returns:
        Tokens [room], ``N`` where there is none; for each place a number that those
        of an expert share; experts by block; how many places are in use.

    """
    tokens = torch.full((room,), len(experts), dtype=_INT)
    sets = torch.arange(num_experts, num_experts + room)
    owners: list[int] = []
    start = 0
    for expert in range(num_experts):
        own = (experts == expert).nonzero().flatten()
        tokens[start : start + len(own)] = own.int()
        sets[start : start + len(own)] = expert
        used = _rounded(len(own), block)
        owners += [expert] * (used // block)
        start += used
    return [tokens, sets, torch.tensor(owners, dtype=_INT), torch.tensor(start)]


def local_experts(
    topk_ids: Tensor, num_experts: int, expert_map: Tensor | None
) -> Tensor:
    """Return the expert of each token on this device, -1 for one of another."""
    ids = topk_ids.flatten().long()
    there = (ids >= 0) & (ids < num_experts)
    if expert_map is not None:
        ids = expert_map.long()[ids.where(there, 0)]
    return ids.where(there, -1)


def _padded(values: Tensor, room: int, filling: int) -> Tensor:
    result = torch.full((room,), filling, dtype=_INT)
    result[: len(values)] = values
    return result


def _alignments() -> Iterator[Arguments]:
    # The first two are of the kernel for few tokens and experts.
    for tokens, count, experts, block in (
        (7, 2, 8, 16),
        (33, 6, 64, 4),
        (300, 8, 64, 64),
        (40, 8, 256, 16),
        (1, 4, 300, 16),
    ):
        room = _rounded(tokens * count + experts * (block - 1), block)
        arguments: Arguments = {
            "topk_ids": making.integers(tokens, count, below=experts, dtype=_INT),
            "num_experts": experts,
            "block_size": block,
            "sorted_token_ids": making.empty(room, dtype=_INT),
            "experts_ids": making.empty(room // block, dtype=_INT),
            "num_tokens_post_pad": making.empty(1, dtype=_INT),
            "maybe_expert_map": None,
        }
        yield arguments
        local = torch.full((experts,), -1, dtype=_INT)
        local[1::2] = torch.arange(experts // 2, dtype=_INT)
        yield {**arguments, "maybe_expert_map": local}


@checked("_moe_C::moe_align_block_size", _alignments, repeats=False)
def moe_align_block_size(
    topk_ids: Tensor,
    num_experts: int,
    block_size: int,
    sorted_token_ids: Tensor,
    experts_ids: Tensor,
    num_tokens_post_pad: Tensor,
    maybe_expert_map: Tensor | None = None,
) -> dict[str, Expected]:
    experts = local_experts(topk_ids, num_experts, maybe_expert_map)
    room = len(sorted_token_ids)
    tokens, sets, owners, used = _blocks(experts, num_experts, block_size, room)
    # Those of blocks beyond a room that is no multiple of a block are left alone.
    filled = torch.arange(len(experts_ids)) < -(-room // block_size)
    return {
        "sorted_token_ids": Expected(tokens, sets=sets),
        "experts_ids": Expected(_padded(owners, len(experts_ids), 0), written=filled),
        "num_tokens_post_pad": Expected(used.int().view(1)),
    }


def _batches() -> Iterator[Arguments]:
    for counts, most, block in (
        ((5, 0, 16, 1), 16, 16),
        ((33,), 40, 64),
        ((0, 0, 0), 8, 4),
        (tuple(range(64)), 64, 8),
    ):
        room = _rounded(most, block) * len(counts)
        yield {
            "max_tokens_per_batch": most,
            "block_size": block,
            "expert_num_tokens": torch.tensor(counts, dtype=_INT),
            "sorted_token_ids": making.empty(room, dtype=_INT),
            "experts_ids": making.empty(room // block, dtype=_INT),
            "num_tokens_post_pad": making.empty(1, dtype=_INT),
        }


@checked("_moe_C::batched_moe_align_block_size", _batches)
def batched_moe_align_block_size(
    max_tokens_per_batch: int,
    block_size: int,
    expert_num_tokens: Tensor,
    sorted_token_ids: Tensor,
    experts_ids: Tensor,
    num_tokens_post_pad: Tensor,
) -> dict[str, Expected]:
    count = len(expert_num_tokens)
    experts = torch.full((count, max_tokens_per_batch), -1)
    for expert, tokens in enumerate(expert_num_tokens.tolist()):
        experts[expert, :tokens] = expert
    room = len(sorted_token_ids)
    tokens, _, owners, used = _blocks(experts.flatten(), count, block_size, room)
    return {
        "sorted_token_ids": Expected(tokens),
        "experts_ids": Expected(_padded(owners, len(experts_ids), -1)),
        "num_tokens_post_pad": Expected(used.int().view(1)),
    }


def _adapters() -> Iterator[Arguments]:
    for tokens, count, experts, block in ((9, 2, 8, 16), (40, 8, 256, 16)):
        room = _rounded(tokens * count + experts * (block - 1), block)
        owners = torch.tensor([0, 1, 2, -1], dtype=_INT).repeat(-(-tokens // 4))
        yield {
            "topk_ids": making.integers(tokens, count, below=experts, dtype=_INT),
            "token_lora_mapping": owners[:tokens],
            "num_experts": experts,
            "block_size": block,
            "max_loras": 3,
            "max_num_tokens_padded": room,
            "max_num_m_blocks": room // block,
            "sorted_token_ids": making.empty(3 * room, dtype=_INT),
            "experts_ids": making.empty(3 * room // block, dtype=_INT),
            "num_tokens_post_pad": making.empty(3, dtype=_INT),
            # One is switched off; there is one place more than adapters, for none.
            "adapter_enabled": torch.tensor([1, 0, 1], dtype=_INT),
            "lora_ids": torch.tensor([2, -1, 0, 1], dtype=_INT),
            "maybe_expert_map": None,
        }


@checked("_moe_C::moe_lora_align_block_size", _adapters, repeats=False)
def moe_lora_align_block_size(
    topk_ids: Tensor,
    token_lora_mapping: Tensor,
    num_experts: int,
    block_size: int,
    max_loras: int,
    max_num_tokens_padded: int,
    max_num_m_blocks: int,
    sorted_token_ids: Tensor,
    experts_ids: Tensor,
    num_tokens_post_pad: Tensor,
    adapter_enabled: Tensor,
    lora_ids: Tensor,
    maybe_expert_map: Tensor | None = None,
) -> dict[str, Expected]:
    experts = local_experts(topk_ids, num_experts, maybe_expert_map)
    owner = token_lora_mapping.long().repeat_interleave(topk_ids.shape[1])
    shapes = (max_num_tokens_padded, max_num_m_blocks, 1)
    values = [torch.zeros(max_loras, n, dtype=_INT) for n in shapes]
    # Numbers of their own for each adapter, also for those that are left alone.
    own_sets = torch.arange(max_loras)[:, None] * (num_experts + max_num_tokens_padded)
    sets = own_sets + num_experts + torch.arange(max_num_tokens_padded)
    written = torch.zeros(max_loras, 1, dtype=torch.bool)
    for lora in lora_ids.tolist():
        if not 0 <= lora < max_loras or not adapter_enabled[lora]:
            continue
        own = experts.where(owner == lora, -1)
        tokens, groups, owners, used = _blocks(
            own, num_experts, block_size, max_num_tokens_padded
        )
        written[lora] = True
        values[0][lora], values[2][lora] = tokens, used
        values[1][lora] = _padded(owners, max_num_m_blocks, -1)
        sets[lora] = own_sets[lora] + groups

    def expected(value: Tensor, sets: Tensor | None = None) -> Expected:
        there = written.expand(value.shape).flatten()
        return Expected(value.flatten(), written=there, sets=sets)

    return {
        "sorted_token_ids": expected(values[0], sets=sets.flatten()),
        "experts_ids": expected(values[1]),
        "num_tokens_post_pad": expected(values[2]),
    }
