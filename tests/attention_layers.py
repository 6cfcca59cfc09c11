# SPDX-License-Identifier: Apache-2.0
"""Encoder layers of the backend, and an oracle for them."""

from types import SimpleNamespace
from typing import Any

import torch
from vllm.v1.attention.backend import AttentionType

from vllm_xpu_fp8_plugin.attention import (
    XPUFp8AttentionImpl,
)

ENCODER_TYPES = [AttentionType.ENCODER, AttentionType.ENCODER_ONLY]


def make_impl(
    attn_type: str = AttentionType.ENCODER_ONLY,
    num_heads: int = 4,
    num_kv_heads: int = 4,
    head_size: int = 32,
    **kwargs: Any,
) -> XPUFp8AttentionImpl:
    arguments: dict[str, Any] = {
        "alibi_slopes": None,
        "sliding_window": None,
        "kv_cache_dtype": "auto",
        **kwargs,
    }
    return XPUFp8AttentionImpl(
        num_heads,
        head_size,
        head_size**-0.5,
        num_kv_heads,
        attn_type=attn_type,
        **arguments,
    )


def metadata(lengths: list[int]) -> SimpleNamespace:
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return SimpleNamespace(
        query_start_loc=starts,
        max_query_len=max(lengths),
        num_actual_tokens=sum(lengths),
    )


def oracle(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    window: tuple[int, int],
    sinks: torch.Tensor | None,
    scale: float | None = None,
    softcap: float = 0.0,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention from its definition, in float64, one query and head at a time."""
    scale = query.shape[2] ** -0.5 if scale is None else scale
    out = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // key.shape[1]
    start = 0
    for length in lengths:
        for i in range(length):
            low = 0 if window[0] < 0 else max(0, i - window[0])
            high = length if window[1] < 0 else min(length, i + window[1] + 1)
            for head in range(query.shape[1]):
                keys = key[start + low : start + high, head // group].double()
                values = value[start + low : start + high, head // group].double()
                logits = scale * (keys @ query[start + i, head].double())
                if softcap:
                    logits = softcap * (logits / softcap).tanh()
                if slopes is not None:
                    distance = (torch.arange(low, high) - i).abs()
                    logits = logits - slopes[head].double() * distance
                weights = logits.exp()
                total = weights.sum()
                if sinks is not None:
                    total = total + sinks[head].double().exp()
                out[start + i, head] = weights @ values / total
        start += length
    return out
