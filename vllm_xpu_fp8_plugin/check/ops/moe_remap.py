# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts: each expert's tokens side by side, and where each one went.

Contract: csrc/moe/remap_hidden_states.cpp of vllm-xpu-kernels. The order of one
expert's tokens is not promised: they are counted by atomic adds.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected, bits
from vllm_xpu_fp8_plugin.check.ops.moe_align import local_experts
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_INT = torch.int32


def _remappings() -> Iterator[Arguments]:
    for dtype, scale in (
        (torch.bfloat16, None),
        (torch.float32, None),
        (making.E4M3, torch.float32),
    ):
        # In the last one an expert has one token, so that there is one right order.
        for tokens, count, experts in ((7, 2, 8), (300, 4, 16), (5, 6, 32)):
            if experts == 32:
                ids = making.distinct(tokens * count, experts).view(tokens, count)
            else:
                ids = making.integers(tokens, count, below=experts)
            width, block = 256, 128
            scales = making.positive(tokens, width // block) if scale else None
            room = tokens * count
            arguments: Arguments = {
                "hidden_states": making.normal(tokens, width, dtype=dtype),
                "hidden_states_scales": scales,
                "remapped_hidden_states": making.empty(room, width, dtype=dtype),
                "remapped_hidden_states_scales": (
                    making.empty(room, width // block, dtype=scale) if scale else None
                ),
                "expert_map": None,
                "rows_per_expert": torch.zeros(experts, dtype=_INT),
                "unpermuted_row_to_permuted_row": making.empty(
                    tokens, count, dtype=_INT
                ),
                "topk_ids": ids,
                "total_experts_num": experts,
                "local_experts_num": experts,
            }
            yield arguments
            half = experts // 2
            local = torch.full((experts,), -1, dtype=_INT)
            local[:half] = torch.arange(half, dtype=_INT)
            yield {
                **arguments,
                "expert_map": local,
                "rows_per_expert": torch.zeros(half, dtype=_INT),
                "local_experts_num": half,
            }


@checked(
    "_moe_C::remap_hidden_states",
    _remappings,
    inplace=("rows_per_expert",),
    repeats=False,
)
def remap_hidden_states(
    hidden_states: Tensor,
    hidden_states_scales: Tensor | None,
    remapped_hidden_states: Tensor,
    remapped_hidden_states_scales: Tensor | None,
    expert_map: Tensor | None,
    rows_per_expert: Tensor,
    unpermuted_row_to_permuted_row: Tensor,
    topk_ids: Tensor,
    total_experts_num: int,
    local_experts_num: int,
) -> dict[str, Expected]:
    experts = local_experts(topk_ids, total_experts_num, expert_map)
    order = experts.argsort(stable=True)
    order = order[experts[order] >= 0]
    rows = torch.full_like(experts, -1)
    rows[order] = torch.arange(len(order))
    counts = torch.bincount(experts[order], minlength=local_experts_num)
    # Where an expert has several tokens any order of them is right, in both outputs.
    own = experts.where(experts >= 0, local_experts_num)
    outputs = {
        "rows_per_expert": Expected((rows_per_expert + counts).int()),
        "unpermuted_row_to_permuted_row": Expected(
            rows.int().view(topk_ids.shape), sets=own.view(topk_ids.shape)
        ),
    }
    for name, source, target in (
        ("remapped_hidden_states", hidden_states, remapped_hidden_states),
        (
            "remapped_hidden_states_scales",
            hidden_states_scales,
            remapped_hidden_states_scales,
        ),
    ):
        if source is None or target is None:
            continue
        width = source.shape[1]
        values, written = torch.zeros_like(target), torch.zeros(len(target)).bool()
        values[: len(order)] = source[order // topk_ids.shape[1]]
        written[: len(order)] = True
        places = torch.full((len(target),), local_experts_num)
        places[: len(order)] = experts[order]
        columns = torch.arange(width)
        outputs[name] = Expected(
            bits(values),
            written=written.unsqueeze(1).expand(target.shape),
            sets=places.unsqueeze(1) * width + columns,
        )
    return outputs
