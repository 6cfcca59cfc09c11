# SPDX-License-Identifier: Apache-2.0
"""Attention from its definition, in float64, one query and head at a time."""

import math

import torch
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    causal: bool = False,
    window: tuple[int, int] = (-1, -1),
    sink: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of one sequence whose queries are its last tokens.

    Returns:
        Output [len_q, num_heads, head_size_v] and log-sum-exp [num_heads, len_q].

    """
    len_q, num_heads, _ = query.shape
    len_k, num_kv_heads, head_size_v = value.shape
    out = torch.zeros(len_q, num_heads, head_size_v, dtype=torch.float64)
    lse = torch.full((num_heads, len_q), -math.inf, dtype=torch.float64)
    for i in range(len_q):
        position = i + len_k - len_q
        seen = [
            j
            for j in range(len_k)
            if not (causal and j > position)
            and not (window[0] >= 0 and j < position - window[0])
            and not (window[1] >= 0 and j > position + window[1])
        ]
        for head in range(num_heads):
            kv_head = head * num_kv_heads // num_heads
            logits = [
                scale * float(query[i, head].double() @ key[j, kv_head].double())
                for j in seen
            ]
            terms = logits + ([] if sink is None else [float(sink[head])])
            if not terms:
                continue
            top = max(terms)
            total = sum(math.exp(x - top) for x in terms)
            lse[head, i] = top + math.log(total)
            for j, logit in zip(seen, logits, strict=True):
                weight = math.exp(logit - top) / total
                out[i, head] += weight * value[j, kv_head].double()
    return out, lse
