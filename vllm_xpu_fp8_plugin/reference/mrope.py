# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding of multimodal models (csrc/xpu/sycl/multimodal_rope.cpp)."""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.refusals import require, require_all
from vllm_xpu_fp8_plugin.reference.registry import op
from vllm_xpu_fp8_plugin.reference.rotary import heads_of, rotate, rows_at


@op("_xpu_C::multimodal_rotary_embedding")
def multimodal_rotary_embedding(
    positions: Tensor,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    cos_sin_cache: Tensor,
    is_neox: bool,
    mrope_section: list[int],
    mrope_interleaved: bool = False,
) -> None:
    """Rotate in place, each section of a head by a position of its own.

    Computes in float32 for bfloat16.

    Args:
        positions: [sections, num_tokens], int64; at most four sections.
        query: [num_tokens, num_heads * head_size] or [.., num_heads, head_size].
        key: As `query`, with num_kv_heads, or None.
        head_size: Values of a head.
        cos_sin_cache: [max_position, rot_dim], in the query's dtype.
        is_neox: NeoX or GPT-J style.
        mrope_section: Pairs in each section; their sum is rot_dim / 2.
        mrope_interleaved: Sections take turns, pair by pair, for as long as they last;
            the first takes what is left. It needs three sections.

    """
    name = "multimodal_rotary_embedding"
    require(
        positions.dim() == 2 and len(mrope_section) == len(positions) <= 4,
        "{}: positions must be [len(mrope_section), num_tokens] with at most "
        "four sections, got {} and mrope_section={}",
        name,
        list(positions.shape),
        mrope_section,
    )
    require(
        not mrope_interleaved or len(mrope_section) == 3,
        "{}: interleaved sections must be three, got {}",
        name,
        mrope_section,
    )
    sections, tokens = positions.shape
    rot_dim = cos_sin_cache.shape[1]
    require(
        rot_dim > 0 and rot_dim % 2 == 0 and sum(mrope_section) == rot_dim // 2,
        "{}: mrope_section must sum to rot_dim / 2, and rot_dim be even; got {} "
        "and rot_dim={}",
        name,
        mrope_section,
        rot_dim,
    )
    if not tokens:
        return
    require_all(name, query.dtype, key=key, cos_sin_cache=cos_sin_cache)
    rows = rows_at(name, positions.flatten(), cos_sin_cache)
    rows = rows.view(sections, tokens, 2, rot_dim // 2)
    section = _section_of_pair(mrope_section, mrope_interleaved)
    pairs = torch.arange(rot_dim // 2)
    cos, sin = rows[section, :, :, pairs].permute(2, 1, 0).unsqueeze(2)
    if query.dtype == torch.bfloat16:
        cos, sin = cos.float(), sin.float()
    for heads in heads_of(name, query, key, head_size, tokens, 1):
        rotate(heads[..., :rot_dim], cos, sin, is_neox)


def _section_of_pair(sections: list[int], interleaved: bool) -> Tensor:
    """Return the section that each pair of a head belongs to."""
    if not interleaved:
        return torch.arange(len(sections)).repeat_interleave(torch.tensor(sections))
    pair = torch.arange(sum(sections))
    turn = pair % 3
    return turn.where(pair < 3 * torch.tensor(sections)[turn], 0)
