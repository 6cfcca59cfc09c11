# SPDX-License-Identifier: Apache-2.0
"""Logits of the sparse attention indexer, over keys in order and in pages."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_PAGE, _HEADS, _SIZE = 64, 64, 128


def _sums(q: Tensor, k: Tensor, weights: Tensor, seen: Tensor) -> Expected:
    """Return the logits of queries [M, heads, d] and scaled keys [N, d]."""
    scores = torch.einsum("mhd,nd->mhn", q.double(), k)
    sizes = torch.einsum("mhd,nd->mhn", q.double().abs(), k.abs())
    logits = torch.einsum("mhn,mh->mn", scores.relu(), weights.double())
    error = torch.einsum("mhn,mh->mn", sizes, weights.double().abs()) * 2.0**-20
    return Expected(logits.masked_fill(~seen, -torch.inf), error=error)


def _cases() -> Iterator[Arguments]:
    for m, n in ((24, 24), (7, 200), (1, 65), (130, 130)):
        ends = torch.arange(n - m, n).int()
        for first in (0, 3):
            yield {
                "q": making.normal(m, _HEADS, _SIZE, dtype=making.E4M3),
                "kv": making.normal(n, _SIZE, dtype=making.E4M3),
                "kv_scales": making.positive(n),
                "weights": making.normal(m, _HEADS, dtype=torch.float32),
                "cu_seqlen_ks": torch.full((m,), first).int(),
                "cu_seqlen_ke": ends + (1 if first else 0),
            }


@checked("_xpu_C::fp8_mqa_logits", _cases, vary=("q",), rows=("q", "return"))
def fp8_mqa_logits(
    q: Tensor,
    kv: Tensor,
    kv_scales: Tensor,
    weights: Tensor,
    cu_seqlen_ks: Tensor,
    cu_seqlen_ke: Tensor,
) -> dict[str, Expected]:
    keys = torch.arange(len(kv))
    seen = (keys >= cu_seqlen_ks[:, None]) & (keys < cu_seqlen_ke[:, None])
    scaled = kv.double() * kv_scales.double()[:, None]
    return {"return": _sums(q, scaled, weights, seen)}


def _pages() -> Iterator[Arguments]:
    for lengths, next_n in (((70, 1, 200), 1), ((130, 64), 2), ((65,), 1)):
        batch, pages = len(lengths), 16
        cache = torch.empty(pages, _PAGE * (_SIZE + 4), dtype=torch.uint8)
        keys = making.normal(pages, _PAGE * _SIZE, dtype=making.E4M3)
        cache[:, : _PAGE * _SIZE] = keys.view(torch.uint8)
        scales = making.positive(pages, _PAGE)
        cache[:, _PAGE * _SIZE :] = scales.view(torch.uint8)
        yield {
            "q_fp8": making.normal(batch, next_n, _HEADS, _SIZE, dtype=making.E4M3),
            "kv_cache_fp8": cache.view(pages, _PAGE, 1, _SIZE + 4),
            "weights": making.normal(batch * next_n, _HEADS, dtype=torch.float32),
            "context_lens": torch.tensor(lengths).int(),
            "block_tables": making.distinct(batch * 4, pages).int().view(batch, 4),
            "schedule_metadata": None,
            "max_model_len": 256,
        }


@checked("_xpu_C::fp8_paged_mqa_logits", _pages, vary=("q_fp8",))
def fp8_paged_mqa_logits(
    q_fp8: Tensor,
    kv_cache_fp8: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_tables: Tensor,
    schedule_metadata: Tensor | None,
    max_model_len: int,
) -> dict[str, Expected]:
    batch, next_n, heads, size = q_fp8.shape
    values = torch.full((batch, next_n, max_model_len), -torch.inf).double()
    error = torch.zeros_like(values)
    for i, length in enumerate(context_lens.tolist()):
        keys = torch.zeros(length, size).double()
        for position in range(length):
            page = kv_cache_fp8[block_tables[i, position // _PAGE]].flatten()
            at = position % _PAGE
            key = page[at * size : (at + 1) * size].view(making.E4M3).double()
            start = _PAGE * size + 4 * at
            scale = page[start : start + 4].clone().view(torch.float32).double()
            keys[position] = key * scale
        own = weights.view(batch, next_n, heads)[i]
        last = torch.arange(length - next_n, length)[:, None]
        logits = _sums(q_fp8[i], keys, own, torch.arange(length) <= last)
        values[i, :, :length] = logits.values
        error[i, :, :length] = torch.as_tensor(logits.error)
    return {"return": Expected(values.flatten(0, 1), error=error.flatten(0, 1))}
