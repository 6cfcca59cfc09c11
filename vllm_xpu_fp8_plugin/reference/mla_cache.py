# SPDX-License-Identifier: Apache-2.0
"""The cache of multi-head latent attention: one entry a token for all heads.

Contracts: csrc/cache.cpp of vllm-xpu-kernels, and the device code in its wheels.
"""

import itertools

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.cache_dtype import (
    as_stored,
    encode,
    stored_as,
    written_slots,
)
from vllm_xpu_fp8_plugin.reference.fp8 import from_fp8
from vllm_xpu_fp8_plugin.reference.refusals import (
    FP8_DTYPES,
    require,
    require_dtype,
    require_pages,
)
from vllm_xpu_fp8_plugin.reference.registry import op


@op("_C_cache_ops::concat_and_cache_mla")
def concat_and_cache_mla(
    kv_c: Tensor,
    k_pe: Tensor,
    kv_cache: Tensor,
    slot_mapping: Tensor,
    kv_cache_dtype: str,
    scale: Tensor,
) -> None:
    """Write each token's latent and rotary part, one after the other, to its slot.

    Args:
        kv_c: [num_tokens, kv_lora_rank]; may be longer than `slot_mapping`.
        k_pe: [num_tokens, pe_dim]
        kv_cache: [num_blocks, block_size, kv_lora_rank + pe_dim], written.
        slot_mapping: [num_tokens], int64; block * block_size + offset, negative to
            skip.
        kv_cache_dtype: "auto" stores as is; an FP8 name divides by the scale first.
        scale: One value.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "concat_and_cache_mla"
    fp8 = stored_as(name, kv_cache_dtype, kv_c.dtype)
    rank, pe_dim = kv_c.shape[1], k_pe.shape[1]
    require(
        kv_c.dtype == k_pe.dtype and kv_cache.shape[2] == rank + pe_dim,
        "{}: kv_c of {} and shape {} and k_pe of {} and shape {} do not fit a cache of "
        "shape {}",
        name,
        kv_c.dtype,
        kv_c.shape,
        k_pe.dtype,
        k_pe.shape,
        kv_cache.shape,
    )
    stored = as_stored(name, kv_cache, fp8, kv_c.dtype)
    tokens, blocks, offsets = written_slots(name, slot_mapping, kv_cache.shape[1])
    entries = torch.cat([kv_c[tokens], k_pe[tokens]], dim=1)
    stored[blocks, offsets] = encode(entries, fp8, scale)


@op("_C_cache_ops::gather_cache")
def gather_cache(
    src_cache: Tensor,
    dst: Tensor,
    block_table: Tensor,
    cu_seq_lens: Tensor,
    batch_size: int,
    seq_starts: Tensor | None = None,
) -> None:
    """Copy sequences out of their pages, one after the other.

    Args:
        src_cache: [num_blocks, block_size, entries...]
        dst: [total_tokens, entries...], of the cache's type, written.
        block_table: [batch_size, max_blocks], int32.
        cu_seq_lens: [batch_size + 1], int32, where each sequence starts in `dst`.
        batch_size: The number of sequences.
        seq_starts: [batch_size], int32: the token to start at, rounded down to the
            start of its page.

    Raises:
        RuntimeError: Types do not fit, or a page that is read does not exist.

    """
    name = "gather_cache"
    _require_int32(name, block_table, cu_seq_lens, seq_starts)
    require_dtype(name, "dst", dst, (src_cache.dtype,))
    require(
        src_cache.itemsize <= 4,
        "{}: unsupported data type width: {}",
        name,
        8 * src_cache.itemsize,
    )
    if src_cache.dtype in FP8_DTYPES:
        src_cache, dst = src_cache.view(torch.uint8), dst.view(torch.uint8)
    block_size = src_cache.shape[1]
    starts = cu_seq_lens.tolist()[: batch_size + 1]
    for i, (start, end) in enumerate(itertools.pairwise(starts)):
        first = 0 if seq_starts is None else int(seq_starts[i]) // block_size
        count = -(-(end - start) // block_size)
        pages = block_table[i, first : first + count]
        require_pages(name, pages, len(src_cache))
        dst[start:end] = src_cache[pages].flatten(0, 1)[: end - start]


@op("_C_cache_ops::gather_and_maybe_dequant_cache")
def gather_and_maybe_dequant_cache(
    src_cache: Tensor,
    dst: Tensor,
    block_table: Tensor,
    cu_seq_lens: Tensor,
    token_to_seq: Tensor,
    num_tokens: int,
    kv_cache_dtype: str,
    scale: Tensor,
    seq_starts: Tensor | None = None,
) -> None:
    """Copy sequences out of their pages, times `scale` where they are FP8.

    Args:
        src_cache: [num_blocks, block_size, entry_size]
        dst: [total_tokens, entry_size]; float32, fp16 or bf16, written.
        block_table: [batch_size, max_blocks], int32.
        cu_seq_lens: [batch_size + 1], int32, where each sequence starts in `dst`.
        token_to_seq: [num_tokens], int32: the sequence of each row of `dst`.
        num_tokens: Rows of `dst` to write.
        kv_cache_dtype: "auto" copies; an FP8 name converts.
        scale: One value.
        seq_starts: [batch_size], int32: the token to start at.

    Raises:
        RuntimeError: Types do not fit, or a page that is read does not exist.

    """
    name = "gather_and_maybe_dequant_cache"
    _require_int32(name, block_table, cu_seq_lens, token_to_seq, seq_starts)
    fp8 = stored_as(name, kv_cache_dtype, dst.dtype)
    stored = as_stored(name, src_cache, fp8, dst.dtype)
    block_size = src_cache.shape[1]
    tokens = torch.arange(num_tokens)
    sequences = token_to_seq[:num_tokens].long()
    tokens = tokens[tokens < cu_seq_lens[sequences + 1]]
    sequences = sequences[tokens]
    positions = tokens - cu_seq_lens[sequences]
    if seq_starts is not None:
        positions = positions + seq_starts[sequences]
    pages = block_table[sequences, positions // block_size].long()
    require_pages(name, pages, len(src_cache))
    entries = stored[pages, positions % block_size][..., : dst.shape[-1]]
    if fp8 is not None:
        entries = from_fp8(entries.contiguous().view(fp8), scale).to(dst.dtype)
    dst[tokens] = entries


def _require_int32(name: str, *tensors: Tensor | None) -> None:
    for tensor in tensors:
        require(
            tensor is None or tensor.dtype == torch.int32,
            "{}: tables, lengths and starts must be int32, got {}",
            name,
            None if tensor is None else tensor.dtype,
        )
