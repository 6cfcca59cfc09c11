# SPDX-License-Identifier: Apache-2.0
"""Calls that write and read a KV cache like a layer's."""

import torch

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.call import Call
from vllm_xpu_fp8_plugin.check.ops import attention, cache


def cache_calls(
    kind: str, heads: int, kv_heads: int, size: int, dtype: torch.dtype
) -> list[Call]:
    """Return a write to a cache, and a read of one.

    Args:
        kind: vLLM's ``kv_cache_dtype``.
        heads: Query heads.
        kv_heads: Key heads.
        size: Of a head.
        dtype: Of the model.

    """
    fp8 = cache.fp8_of(kind)
    dtype = dtype if dtype in making.HALVES else torch.bfloat16
    pages = making.empty(2, 3, 64, kv_heads, size, dtype=fp8 or dtype)
    pages = pages.view(torch.uint8) if fp8 else pages
    write = {
        "key": making.normal(3, kv_heads, size, dtype=dtype),
        "value": making.normal(3, kv_heads, size, dtype=dtype),
        "key_cache": pages[0],
        "value_cache": pages[1],
        "slot_mapping": torch.tensor([64, 191, 0]),
        "kv_cache_dtype": kind if fp8 else "auto",
        "k_scale": making.positive(1),
        "v_scale": making.positive(1),
    }
    read = attention.paged([1, 2], [65, 9], (heads, kv_heads, size), dtype, 64, fp8)
    return [
        Call("_C_cache_ops::reshape_and_cache_flash", write),
        Call("_vllm_fa2_C::varlen_fwd", read),
    ]
