# SPDX-License-Identifier: Apache-2.0
"""Attention of sequences of any lengths, over keys in rows or in pages."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_FP8 = (making.E4M3, making.E5M2)


def attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    mask: Tensor,
    sink: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of one sequence in float64.

    Args:
        query: [queries, heads, size].
        key: [keys, key heads, size].
        value: As `key`, with a size of its own.
        scale: Factor of the products.
        mask: [queries, keys], which keys a query sees.
        sink: [heads], a logit that takes part in the softmax only, or None.

    Returns:
        Output [queries, heads, size], log-sum-exp [heads, queries], and the same sum
        as the output of magnitudes.

    """
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    logits = torch.einsum("qhd,khd->hqk", query, key) * scale
    logits = logits.masked_fill(~mask, -math.inf)
    if sink is not None:
        column = sink.double().view(-1, 1, 1).expand(-1, len(query), 1)
        logits = torch.cat([logits, column], dim=-1)
    lse = torch.logsumexp(logits, dim=-1)
    shares = (logits - lse.unsqueeze(-1)).exp().nan_to_num(0.0)[..., : len(key)]
    output = torch.einsum("hqk,khd->qhd", shares, value)
    return output, lse, torch.einsum("hqk,khd->qhd", shares, value.abs())


def seen(queries: int, keys: int, left: int, right: int) -> Tensor:
    """Return which keys each query sees; the queries are the last of the keys."""
    distance = torch.arange(keys) - (torch.arange(queries)[:, None] + keys - queries)
    mask = torch.ones(queries, keys, dtype=torch.bool)
    if left >= 0:
        mask &= distance >= -left
    if right >= 0:
        mask &= distance <= right
    return mask


def _starts(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def _call(
    queries: list[int],
    keys: list[int],
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    **others: Any,
) -> Arguments:
    query_heads, key_heads, size = heads
    return {
        "q": making.normal(sum(queries), query_heads, size, dtype=dtype),
        "k": making.normal(sum(keys), key_heads, size, dtype=dtype),
        "v": making.normal(sum(keys), key_heads, size, dtype=dtype),
        "out": making.empty(sum(queries), query_heads, size, dtype=dtype),
        "cu_seqlens_q": _starts(queries),
        "cu_seqlens_k": _starts(keys),
        "max_seqlen_q": max(queries),
        "max_seqlen_k": max(keys),
        "p_dropout": 0.0,
        "softmax_scale": size**-0.5,
        "zero_tensors": False,
        "is_causal": False,
        "window_size_left": -1,
        "window_size_right": -1,
        "softcap": 0.0,
        "return_softmax": False,
        "mix_batch": False,
        **others,
    }


def paged(
    queries: list[int],
    keys: list[int],
    heads: tuple[int, int, int],
    dtype: torch.dtype,
    block: int,
    fp8: torch.dtype | None = None,
    **others: Any,
) -> Arguments:
    """Return a call on pages, as a decoder makes it.

    Args:
        queries: Tokens of each sequence that ask.
        keys: Tokens of each sequence.
        heads: Query heads, key heads, head size.
        dtype: Of the queries.
        block: Tokens a page.
        fp8: Of the pages, None for that of the queries.
        others: More arguments of the op.

    """
    call = _call(queries, keys, heads, dtype, is_causal=True, **others)
    most = max(-(-n // block) for n in keys)
    pages = most * len(keys) + 1
    shape = (pages, block, heads[1], heads[2])
    order = making.distinct(pages, pages)[: most * len(keys)]
    call.update(
        k=making.normal(*shape, dtype=fp8 or dtype),
        v=making.normal(*shape, dtype=fp8 or dtype),
        seqused_k=torch.tensor(keys).int(),
        block_table=order.view(len(keys), most).int(),
        # vLLM passes one that is not read.
        cu_seqlens_k=_starts(keys),
    )
    if fp8:
        call.update(k_scale=making.positive(1), v_scale=making.positive(1))
    return call


def _cases() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        for size in (32, 64, 80, 96, 128, 256):
            yield _call([5, 1, 17], [5, 1, 17], (4, 2, size), dtype)
        yield _call([40, 70], [40, 70], (4, 4, 64), dtype, window_size_left=8,
                    window_size_right=8)  # fmt: skip
        yield _call([33], [33], (8, 2, 128), dtype, is_causal=True)
        # A sequence without a token, in the middle.
        yield _call([5, 0, 3], [5, 0, 3], (4, 2, 64), dtype)
        for size, block in ((64, 64), (128, 64), (64, 16)):
            yield paged([7, 33], [20, 130], (4, 2, size), dtype, block)
            yield paged([1, 1, 1], [1, 64, 129], (8, 2, size), dtype, block)
        yield paged([5, 1], [70, 300], (8, 2, 128), dtype, 64, making.E4M3)
        yield paged([1, 1], [65, 128], (8, 1, 64), dtype, 64, making.E4M3)
        yield paged([40], [90], (4, 4, 64), dtype, 64, window_size_left=31)
        sink = making.normal(8, dtype=dtype)
        yield paged([6, 1], [6, 90], (8, 2, 64), dtype, 64, softmax_sink=sink)


@checked("_vllm_fa2_C::varlen_fwd", _cases, vary=("q", "k", "v"), largest=8.0)
def varlen_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    softmax_scale: float,
    is_causal: bool,
    window_size_left: int,
    window_size_right: int,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    q_scale: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    softmax_sink: Tensor | None = None,
    return_softmax: bool = False,
    **others: Any,
) -> dict[str, Expected]:
    shape = (*q.shape[:-1], v.shape[-1])
    dtype = q.dtype if q.dtype not in _FP8 else torch.bfloat16
    dtype = dtype if out is None else out.dtype
    values, sizes = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    lse = torch.zeros(q.shape[1], q.shape[0], dtype=torch.float64)
    right = 0 if is_causal else window_size_right
    starts_k = cu_seqlens_k.tolist()
    for i, (start, end) in enumerate(itertools.pairwise(cu_seqlens_q.tolist())):
        if block_table is not None and seqused_k is not None:
            length = int(seqused_k[i])
            pages = block_table[i, : -(-length // k.shape[1])].long()
            keys, vals = (_read(x, pages)[:length] for x in (k, v))
        else:
            keys, vals = (x[starts_k[i] : starts_k[i + 1]] for x in (k, v))
        mask = seen(end - start, len(keys), window_size_left, right)
        operands = (
            (q[start:end], q_scale),
            (keys, k_scale),
            (vals, v_scale),
        )
        queries, keys, vals = (_values(*x) for x in operands)
        part = attended(queries, keys, vals, softmax_scale, mask, softmax_sink)
        values[start:end], lse[:, start:end], sizes[start:end] = part
    # Products of queries and keys, and shares, are rounded to the 16-bit type before
    # they go on: a few of its steps of the sum of magnitudes.
    # Shares that float32 takes for zero leave nothing of their values.
    lost = float(v.double().nan_to_num().abs().max()) * 2.0**-120 if v.numel() else 0.0
    error = sizes * torch.finfo(dtype).eps * 2 + lost
    name = "return.0" if out is None else "out"
    outputs = {name: Expected(values, error=error)}
    if return_softmax:
        outputs["return.1"] = Expected(lse, error=2.0**-10)
    return outputs


def _read(cache: Tensor, pages: Tensor) -> Tensor:
    return cache.view(torch.uint8)[pages].view(cache.dtype).flatten(0, 1) if (
        cache.dtype in _FP8
    ) else cache[pages].flatten(0, 1)  # fmt: skip


def _values(tensor: Tensor, scale: Tensor | None) -> Tensor:
    """Return float64 values; a scale belongs to an FP8 tensor only."""
    if tensor.dtype in _FP8 and scale is not None:
        return tensor.double() * scale.double().flatten()[0]
    return tensor.double()
