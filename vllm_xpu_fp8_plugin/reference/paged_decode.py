# SPDX-License-Identifier: Apache-2.0
"""Attention of sequences that have one query each, over their pages."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vllm_xpu_fp8_plugin.reference.fp8 import to_float
from vllm_xpu_fp8_plugin.reference.refusals import FP8_DTYPES, require_pages

# Of keys in float32 that are taken from their pages at once, as many values again.
_BYTES_AT_ONCE = 64 << 20


def take_pages(cache: Tensor, pages: Tensor) -> Tensor:
    """Return the tokens of pages in their order.

    Args:
        cache: [num_blocks, block_size, num_kv_heads, head_size], of any strides.
        pages: [n], of numbers that there are.

    Returns:
        [n * block_size, num_kv_heads, head_size]

    """
    as_bytes = cache.view(torch.uint8) if cache.dtype in FP8_DTYPES else cache
    return as_bytes.index_select(0, pages).view(cache.dtype).flatten(0, 1)


def attend_single_queries(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    tokens: Sequence[int],
    sequences: Sequence[int],
    lengths_k: Sequence[int],
    block_table: Tensor,
    scales: tuple[Tensor | None, Tensor | None, Tensor | None],
    softmax_scale: float,
    window_left: int,
) -> None:
    """Write the output rows of sequences with one query, in float32, rounded once.

    Sequences of as many pages are computed together: one by one, a step of 16 spends
    three quarters of its time on the calls.

    Args:
        q: [total_q, num_heads, head_size]
        k: Pages [num_blocks, block_size, num_kv_heads, head_size].
        v: As `k`, with a head size of its own.
        out: [total_q, num_heads, head_size_v]
        tokens: The row of `q` and `out` of each of `sequences`.
        sequences: Rows of `block_table`.
        lengths_k: The number of keys of each of `sequences`, 1 or more.
        block_table: [num_seqs, max_blocks]
        scales: Of `q`, `k` and `v`, each one value, for FP8; else ignored.
        softmax_scale: Factor of q @ k.
        window_left: Keys to the left that a query sees, negative for all.

    Raises:
        RuntimeError: A page is named that does not exist.

    """
    block_size = k.shape[1]
    by_pages: defaultdict[int, list[int]] = defaultdict(list)
    for i, length in enumerate(lengths_k):
        by_pages[-(-length // block_size)].append(i)
    for num_pages, members in by_pages.items():
        each = num_pages * block_size * k.shape[2] * k.shape[3] * 4
        at_once = max(1, _BYTES_AT_ONCE // each)
        for start in range(0, len(members), at_once):
            part = members[start : start + at_once]
            rows = [tokens[i] for i in part]
            result = _attend(
                q[rows],
                k,
                v,
                block_table[[sequences[i] for i in part], :num_pages].flatten(),
                [lengths_k[i] for i in part],
                scales,
                softmax_scale,
                window_left,
            )
            out[rows] = result.to(out.dtype)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pages: Tensor,
    lengths_k: list[int],
    scales: tuple[Tensor | None, Tensor | None, Tensor | None],
    softmax_scale: float,
    window_left: int,
) -> Tensor:
    """Return the output [num_seqs, num_heads, head_size_v] of as many pages each."""
    require_pages("varlen_fwd", pages, len(k))
    longest = max(lengths_k)
    keys, values = (
        take_pages(t, pages).unflatten(0, (len(lengths_k), -1))[:, :longest]
        for t in (k, v)
    )
    keys, values = to_float(keys, scales[1]), to_float(values, scales[2])
    seen = None
    if window_left >= 0 or min(lengths_k) < longest:
        seen = _seen(torch.tensor(lengths_k), longest, window_left)
        # What was never written may be NaN, which no mask hides.
        for tensor in (keys, values):
            tensor.masked_fill_(~seen[:, :, None, None], 0.0)
        seen = seen[:, None, None]
    return scaled_dot_product_attention(
        to_float(q, scales[0]).unsqueeze(2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=seen,
        scale=softmax_scale,
        enable_gqa=True,
    ).squeeze(2)


def _seen(lengths: Tensor, num_tokens: int, window_left: int) -> Tensor:
    """Return which keys each query sees, [n, num_tokens]."""
    positions = torch.arange(num_tokens)
    last = lengths[:, None] - 1
    seen = positions <= last
    if window_left >= 0:
        seen &= positions >= last - window_left
    return seen
