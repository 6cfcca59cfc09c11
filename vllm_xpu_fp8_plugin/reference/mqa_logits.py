# SPDX-License-Identifier: Apache-2.0
"""Logits of DeepSeek's sparse attention indexer: which keys a query looks at.

Contract: csrc/xpu/mqa_logits/{mqa_logits_interface.cpp, xe_2/mqa_logits_xe2.cpp} of
vllm-xpu-kernels.
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.fp8 import from_fp8
from vllm_xpu_fp8_plugin.reference.refusals import require, require_pages
from vllm_xpu_fp8_plugin.reference.registry import op

_E4M3 = torch.float8_e4m3fn
_PAGE = 64


@op("_xpu_C::fp8_mqa_logits")
def fp8_mqa_logits(
    q: Tensor,
    kv: Tensor,
    kv_scales: Tensor,
    weights: Tensor,
    cu_seqlen_ks: Tensor,
    cu_seqlen_ke: Tensor,
) -> Tensor:
    """Return ``sum over heads of relu(q . kv * kv_scale) * weight``, -inf elsewhere.

    Args:
        q: [M, heads, head_dim], e4m3.
        kv: [N, head_dim], e4m3.
        kv_scales: [N], float32.
        weights: [M, heads], float32.
        cu_seqlen_ks: [M], int32: the first key of each query.
        cu_seqlen_ke: [M], int32: the one behind its last.

    Returns:
        [M, N], float32.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    require(q.dim() == 3, "q must be [seq_len, num_heads, head_dim]")
    require(kv.dim() == 2, "kv must be [seq_len_kv, head_dim]")
    require(kv_scales.dim() == 1, "kv_scales must be [seq_len_kv]")
    require(weights.dim() == 2, "weights must be [seq_len, num_heads]")
    bounds = {"cu_seqlen_ks": cu_seqlen_ks, "cu_seqlen_ke": cu_seqlen_ke}
    for name, bound in bounds.items():
        require(bound.dim() == 1, "{} must be [seq_len]", name)
    require(q.dtype == _E4M3, "q must be torch.float8_e4m3fn")
    require(kv.dtype == _E4M3, "kv must be torch.float8_e4m3fn")
    require(kv_scales.dtype == torch.float32, "kv_scales must be torch.float32")
    require(weights.dtype == torch.float32, "weights must be torch.float32")
    for name, bound in bounds.items():
        require(bound.dtype == torch.int32, "{} must be torch.int32", name)
    require(kv.shape[1] == q.shape[2], "kv head_dim mismatch")
    require(weights.shape[0] == q.shape[0], "weights seq_len mismatch")
    require(weights.shape[1] == q.shape[1], "weights num_heads mismatch")
    require(len(kv_scales) == len(kv), "kv_scales shape mismatch")
    for name, bound in bounds.items():
        require(len(bound) == len(q), "{} shape mismatch", name)
    logits = _logits(from_fp8(q), from_fp8(kv), kv_scales, weights)
    keys = torch.arange(len(kv))
    seen = (keys >= cu_seqlen_ks[:, None]) & (keys < cu_seqlen_ke[:, None])
    return logits.masked_fill_(~seen, -torch.inf)


@op("_xpu_C::fp8_paged_mqa_logits")
def fp8_paged_mqa_logits(
    q_fp8: Tensor,
    kv_cache_fp8: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_tables: Tensor,
    schedule_metadata: Tensor | None,
    max_model_len: int,
) -> Tensor:
    """Return `fp8_mqa_logits` of the last tokens of sequences, with keys in a cache.

    Args:
        q_fp8: [batch, next_n, heads, head_dim], e4m3.
        kv_cache_fp8: [pages, 64, 1, head_dim + 4], uint8; a page holds 64 keys, e4m3,
            and behind them their 64 scales, float32.
        weights: [batch * next_n, heads], float32.
        context_lens: [batch], int32, with the queries.
        block_tables: [batch, pages of a sequence], int32.
        schedule_metadata: Not used, as in the kernel.
        max_model_len: Columns of the result.

    Returns:
        [batch * next_n, max_model_len], float32, -inf behind a query's own position.

    Raises:
        RuntimeError: Types or shapes do not fit, or there is no such page.

    """
    _check_paged(
        q_fp8, kv_cache_fp8, weights, context_lens, block_tables, max_model_len
    )
    batch, next_n, heads, head_dim = q_fp8.shape
    pages = kv_cache_fp8.view(len(kv_cache_fp8), -1)
    keys = pages[:, : _PAGE * head_dim].view(_E4M3).view(-1, _PAGE, head_dim)
    scales = pages[:, _PAGE * head_dim :].contiguous().view(torch.float32)
    result = torch.full((batch * next_n, max_model_len), -torch.inf)
    rows = result.view(batch, next_n, max_model_len)
    for i, length in enumerate(context_lens.tolist()):
        table = block_tables[i, : -(-length // _PAGE)]
        require_pages("fp8_paged_mqa_logits", table, len(pages))
        table = table.long()
        own = from_fp8(keys[table].flatten(0, 1)[:length])
        logits = _logits(
            from_fp8(q_fp8[i]),
            own,
            scales[table].flatten()[:length],
            weights.view(batch, next_n, heads)[i],
        )
        last = length - next_n + torch.arange(next_n)
        hidden = torch.arange(length) > last[:, None]
        logits.masked_fill_(hidden, -torch.inf)
        rows[i, :, :length] = logits[:, :max_model_len]
    return result


def _check_paged(
    q: Tensor,
    cache: Tensor,
    weights: Tensor,
    lengths: Tensor,
    tables: Tensor,
    max_model_len: int,
) -> None:
    """Refuse what the host code refuses, in its words."""
    require(q.dim() == 4, "q_fp8 must be [batch_size, next_n, heads, index_dim]")
    require(
        cache.dim() == 4,
        "kv_cache_fp8 must be [num_blocks, block_size, 1, index_dim+4]",
    )
    require(weights.dim() == 2, "weights must be [batch_size * next_n, heads]")
    require(lengths.dim() == 1, "context_lens must be [batch_size]")
    require(tables.dim() == 2, "block_tables must be [batch_size, max_blocks]")
    require(q.dtype == _E4M3, "q_fp8 must be torch.float8_e4m3fn")
    require(cache.dtype == torch.uint8, "kv_cache_fp8 must be torch.uint8 packed cache")
    require(weights.dtype == torch.float32, "weights must be torch.float32")
    require(lengths.dtype == torch.int32, "context_lens must be torch.int32")
    require(tables.dtype == torch.int32, "block_tables must be torch.int32")
    require(cache.shape[2] == 1, "kv_cache_fp8 size(2) must be 1")
    batch, next_n, heads, index_dim = q.shape
    require(
        cache.shape[3] == index_dim + 4,
        "kv_cache_fp8 packed last dim must be index_dim + 4",
    )
    require(weights.shape[0] == batch * next_n, "weights first dim mismatch")
    require(weights.shape[1] == heads, "weights heads mismatch")
    require(len(lengths) == batch, "context_lens shape mismatch")
    require(len(tables) == batch, "block_tables shape mismatch")
    require(max_model_len > 0, "max_model_len must be > 0")
    require(
        cache.shape[1] == _PAGE,
        "fp8_paged_mqa_logits_xe2 currently only supports block_size == {}, but got {}",
        _PAGE,
        cache.shape[1],
    )
    longest = tables.shape[1] * _PAGE
    require(
        not len(lengths) or (int(lengths.min()) >= 0 and int(lengths.max()) <= longest),
        "fp8_paged_mqa_logits: context_lens reach {}, block_tables {} keys",
        lengths.tolist(),
        longest,
    )


def _logits(q: Tensor, keys: Tensor, scales: Tensor, weights: Tensor) -> Tensor:
    """Return logits [M, N] of queries [M, heads, head_dim] and keys [N, head_dim]."""
    result = torch.empty(len(q), len(keys))
    for row in range(len(q)):
        scores = (q[row] @ keys.t()).mul_(scales).relu_()
        result[row] = weights[row] @ scores
    return result
