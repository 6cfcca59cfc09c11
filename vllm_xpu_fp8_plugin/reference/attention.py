# SPDX-License-Identifier: Apache-2.0
"""Variable-length attention, ragged and paged."""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vllm_xpu_fp8_plugin.reference.fp8 import to_float
from vllm_xpu_fp8_plugin.reference.paged_decode import (
    attend_single_queries,
    take_pages,
)
from vllm_xpu_fp8_plugin.reference.refusals import FP8_DTYPES, require_pages
from vllm_xpu_fp8_plugin.reference.registry import op


@op("_vllm_fa2_C::varlen_fwd")
def varlen_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    seqused_k: Tensor | None,
    block_table: Tensor | None,
    softmax_scale: float,
    is_causal: bool,
    window_size_left: int,
    window_size_right: int,
    max_seqlen_q: int,
    max_seqlen_k: int,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    q_scale: Tensor | None = None,
    softmax_sink: Tensor | None = None,
    return_softmax: bool = False,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    gen: Any = None,
    num_splits: int | None = None,
    mix_batch: bool = False,
    splits_per_seq: Tensor | None = None,
    work_list: Tensor | None = None,
) -> list[Tensor]:
    """Attention of each sequence's queries over its own keys, in float32.

    How the work is split (`num_splits` and the arguments after it) changes nothing.

    Args:
        q: [total_q, num_heads, head_size]
        k: [total_k, num_kv_heads, head_size], or with `block_table` pages
            [num_blocks, block_size, num_kv_heads, head_size] of any strides.
        v: As `k`; where each sequence has one query, with a head size of its own.
        out: [total_q, num_heads, head_size_v], written, or None to allocate.
        cu_seqlens_q: [num_seqs + 1]
        cu_seqlens_k: [num_seqs + 1], used without `block_table`.
        seqused_k: [num_seqs], the number of keys with `block_table`.
        block_table: [num_seqs, max_blocks]
        softmax_scale: Factor of q @ k.
        is_causal: The last query sees all keys, each one before it one less.
        window_size_left: Keys to the left that a query sees, negative for all.
        window_size_right: Keys to the right, likewise.
        max_seqlen_q: 1 where each sequence has one query.
        max_seqlen_k: Not needed here.
        k_scale: One value (as a view of any shape), for FP8 keys; else ignored.
        v_scale: Likewise for values.
        q_scale: Likewise for queries.
        softmax_sink: [num_heads], a logit a head that takes part in the softmax only.
        return_softmax: Whether to return the log-sum-exp.
        softcap: Must be 0: the real kernel ignores it.
        alibi_slopes: Must be None: the real kernel ignores it.
        gen: Not used: there is no dropout.
        num_splits: Not used.
        mix_batch: Not used.
        splits_per_seq: Not used.
        work_list: Not used.

    Returns:
        The output, and the log-sum-exp [num_heads, total_q] or an empty tensor.

    Raises:
        NotImplementedError: softcap or ALiBi is asked for, or a prefill with values of
            another size than keys.
        RuntimeError: What the C++ refuses (csrc/flash_attn/flash_api.cpp), or shapes
            that do not fit.

    """
    if softcap or alibi_slopes is not None:
        raise NotImplementedError(
            "varlen_fwd on the virtual XPU refuses softcap and ALiBi "
            f"(got softcap={softcap}, ALiBi: {alibi_slopes is not None}): the XPU "
            "kernel takes them and computes without them. Use "
            "--attention-backend TRITON_ATTN."
        )
    decodes = block_table is not None and max_seqlen_q == 1
    if q.shape[-1] != v.shape[-1] and not decodes:
        raise NotImplementedError(
            f"varlen_fwd on the virtual XPU refuses keys of {q.shape[-1]} with values "
            f"of {v.shape[-1]} in a prefill: the XPU kernel takes values for as large "
            "as keys. Pad them, or use --attention-backend TRITON_ATTN_DIFFKV."
        )
    num_heads = q.shape[1]
    _check(q, k, v, cu_seqlens_q, cu_seqlens_k, seqused_k, block_table)
    if out is None:
        # An FP8 query gives a bf16 result.
        dtype = torch.bfloat16 if q.dtype in FP8_DTYPES else q.dtype
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=dtype)
    lse = torch.empty(num_heads, q.shape[0] if return_softmax else 0)

    starts = cu_seqlens_q.tolist()
    if block_table is None:
        starts_k = cu_seqlens_k.tolist()
        q, k, v = (
            to_float(t, s) for t, s in ((q, q_scale), (k, k_scale), (v, v_scale))
        )
    else:
        assert seqused_k is not None
        lengths_k = seqused_k.tolist()
    left = window_size_left
    right = 0 if is_causal else window_size_right
    single: list[int] = []
    if block_table is not None and softmax_sink is None and not return_softmax:
        single = [
            i
            for i, (start, end) in enumerate(itertools.pairwise(starts))
            if end - start == 1 and lengths_k[i] > 0
        ]
        attend_single_queries(
            q,
            k,
            v,
            out,
            [starts[i] for i in single],
            single,
            [lengths_k[i] for i in single],
            block_table,
            (q_scale, k_scale, v_scale),
            softmax_scale,
            left,
        )
    done = set(single)
    for i, (start, end) in enumerate(itertools.pairwise(starts)):
        if start == end or i in done:
            continue
        if block_table is None:
            keys, values = (t[starts_k[i] : starts_k[i + 1]] for t in (k, v))
            queries = q[start:end]
        else:
            pages = block_table[i, : -(-lengths_k[i] // k.shape[1])]
            require_pages("varlen_fwd", pages, len(k))
            keys, values = (
                to_float(take_pages(t, pages)[: lengths_k[i]], s)
                for t, s in ((k, k_scale), (v, v_scale))
            )
            queries = to_float(q[start:end], q_scale)
        result, result_lse = _attend(
            queries.transpose(0, 1),
            keys.transpose(0, 1),
            values.transpose(0, 1),
            softmax_scale,
            left,
            right,
            softmax_sink,
            return_softmax,
        )
        out[start:end] = result.transpose(0, 1)
        if result_lse is not None:
            lse[:, start:end] = result_lse
    return [out, lse]


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    seqused_k: Tensor | None,
    block_table: Tensor | None,
) -> None:
    for ok, message in (
        (q.dim() == 3, f"query must have 3 dimensions, got {q.dim()}"),
        (
            q.dtype in (torch.float16, torch.bfloat16, *FP8_DTYPES),
            f"query must be fp16, bf16 or fp8, got {q.dtype}",
        ),
        (k.dtype == v.dtype, f"key is {k.dtype} and value {v.dtype}"),
        (
            k.dtype in (q.dtype, *FP8_DTYPES),
            f"query is {q.dtype} and key {k.dtype}, which is not fp8",
        ),
        (
            {q.stride(-1), k.stride(-1), v.stride(-1)} == {1},
            "query, key and value must be contiguous in the last dimension",
        ),
        (
            cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32,
            f"cu_seqlens must be int32, got {cu_seqlens_q.dtype}, {cu_seqlens_k.dtype}",
        ),
        (
            block_table is None or block_table.dtype == torch.int32,
            "block_table must be int32",
        ),
        (block_table is None or seqused_k is not None, "block_table needs seqused_k"),
        (
            q.shape[-1] == k.shape[-1],
            f"head size of query is {q.shape[-1]}, of key {k.shape[-1]}",
        ),
        (
            q.shape[1] % k.shape[-2] == 0,
            f"{q.shape[1]} query heads do not divide by {k.shape[-2]} key/value heads",
        ),
    ):
        if not ok:
            raise RuntimeError(f"varlen_fwd: {message}")


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    left: int,
    right: int,
    sink: Tensor | None,
    return_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attention of one sequence, heads first, float32.

    A query that sees no key gives zeros and a log-sum-exp of -inf.
    """
    len_q, len_k = q.shape[1], k.shape[1]
    mask = _mask(len_q, len_k, left, right)
    sees_all = mask is None or bool(mask.any(dim=1).all())
    if len_k and sees_all and sink is None and not return_lse:
        attn_mask = None if mask is None else mask[None, None]
        result = scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=attn_mask, scale=scale, enable_gqa=True
        )
        return result[0], None

    group = q.shape[0] // k.shape[0]
    logits = q @ k.repeat_interleave(group, dim=0).transpose(1, 2) * scale
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    if sink is not None:
        column = sink.float().view(-1, 1, 1).expand(-1, len_q, 1)
        logits = torch.cat([logits, column], dim=-1)
    lse = torch.logsumexp(logits, dim=-1)
    weights = torch.exp(logits - lse.unsqueeze(-1)).nan_to_num(0.0)[..., :len_k]
    return weights @ v.repeat_interleave(group, dim=0), lse if return_lse else None


def _mask(len_q: int, len_k: int, left: int, right: int) -> Tensor | None:
    """Return which keys each query sees, [len_q, len_k], None for all."""
    # Queries are the last `len_q` of the sequence.
    shift = len_k - len_q
    if (left < 0 or left >= len_k - 1) and (right < 0 or shift + right >= len_k - 1):
        return None
    distance = torch.arange(len_k) - (torch.arange(len_q)[:, None] + shift)
    mask = torch.ones(len_q, len_k, dtype=torch.bool)
    if left >= 0:
        mask &= distance >= -left
    if right >= 0:
        mask &= distance <= right
    return mask
