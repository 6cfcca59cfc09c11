# SPDX-License-Identifier: Apache-2.0
"""RMS norm and rotary embedding of query and key heads in one op."""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.norms import normalized
from vllm_xpu_fp8_plugin.reference.refusals import (
    require,
    require_all,
    require_packed,
)
from vllm_xpu_fp8_plugin.reference.registry import op
from vllm_xpu_fp8_plugin.reference.rotary import rotate, rows_at

_HEAD_SIZES = (64, 128, 256, 512)
_LANES = 32


@op("_C::fused_qk_norm_rope")
def fused_qk_norm_rope(
    qkv: Tensor,
    num_heads_q: int,
    num_heads_k: int,
    num_heads_v: int,
    head_dim: int,
    eps: float,
    q_weight: Tensor,
    k_weight: Tensor,
    cos_sin_cache: Tensor,
    is_neox: bool,
    position_ids: Tensor,
    forced_token_heads_per_warp: int = -1,
) -> None:
    """Norm each head of query and key, then rotate it, in float32 and in place.

    Args:
        qkv: [num_tokens, (num_heads_q + num_heads_k + num_heads_v) * head_dim],
            contiguous, float16 or bfloat16. The value heads stay as they are.
        num_heads_q: Query heads.
        num_heads_k: Key heads.
        num_heads_v: Value heads.
        head_dim: 64, 128, 256 or 512.
        eps: Added to the mean of squares.
        q_weight: [head_dim], in qkv's dtype.
        k_weight: [head_dim], in qkv's dtype.
        cos_sin_cache: [max_position, rotary_dim], of any floating dtype.
        is_neox: NeoX or GPT-J style.
        position_ids: [num_tokens], int64.
        forced_token_heads_per_warp: A matter of speed.

    """
    name = "fused_qk_norm_rope"
    heads = num_heads_q + num_heads_k + num_heads_v
    rotary_dim = cos_sin_cache.shape[-1]
    _check(name, qkv, q_weight, k_weight, cos_sin_cache, position_ids, head_dim)
    require(
        qkv.shape == (len(position_ids), heads * head_dim),
        "{}: qkv must be [{}, {}], got {}",
        name,
        len(position_ids),
        heads * head_dim,
        list(qkv.shape),
    )
    _check_lanes(name, rotary_dim, head_dim, is_neox)
    views = qkv.view(-1, heads, head_dim)
    rows = rows_at(name, position_ids, cos_sin_cache).float()
    cos, sin = rows.unsqueeze(1).chunk(2, dim=-1)
    for start, stop, weight in (
        (0, num_heads_q, q_weight),
        (num_heads_q, num_heads_q + num_heads_k, k_weight),
    ):
        part = views[:, start:stop]
        normed = normalized(part.float(), weight, eps)
        rotate(normed[..., :rotary_dim], cos, sin, is_neox)
        part.copy_(normed)


def _check(
    name: str,
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos_sin_cache: Tensor,
    position_ids: Tensor,
    head_dim: int,
) -> None:
    require(
        qkv.dtype in (torch.float16, torch.bfloat16),
        "{}: qkv must be float16 or bfloat16, got {}",
        name,
        qkv.dtype,
    )
    require_all(name, qkv.dtype, q_weight=q_weight, k_weight=k_weight)
    require_packed(
        name,
        qkv=qkv,
        q_weight=q_weight,
        k_weight=k_weight,
        position_ids=position_ids,
    )
    require(
        head_dim in _HEAD_SIZES,
        "{}: head_dim must be one of {}, got {}",
        name,
        _HEAD_SIZES,
        head_dim,
    )
    for label, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        require(
            weight.shape == (head_dim,),
            "{}: {} must be [{}], got {}",
            name,
            label,
            head_dim,
            list(weight.shape),
        )
    require(
        position_ids.dim() == 1 and cos_sin_cache.dim() == 2,
        "{}: position_ids must be [num_tokens] and cos_sin_cache [max_position, "
        "rotary_dim], got {} and {}",
        name,
        list(position_ids.shape),
        list(cos_sin_cache.shape),
    )


def _check_lanes(name: str, rotary_dim: int, head_dim: int, is_neox: bool) -> None:
    require(
        rotary_dim % 2 == 0 and rotary_dim <= head_dim,
        "{}: rotary_dim must be even and at most {}, got {}",
        name,
        head_dim,
        rotary_dim,
    )
    # The kernel finds a NeoX partner by exclusive or of lane numbers, unchecked.
    per_lane = head_dim // _LANES
    distance = rotary_dim // 2 // per_lane
    paired = distance * per_lane * 2 == rotary_dim and distance.bit_count() == 1
    require(
        paired if is_neox else rotary_dim % per_lane == 0,
        "{}: the kernel rotates wrong pairs for rotary_dim={} with head_dim={}; "
        "use rotary_embedding",
        name,
        rotary_dim,
        head_dim,
    )
