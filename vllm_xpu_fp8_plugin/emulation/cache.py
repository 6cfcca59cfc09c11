# SPDX-License-Identifier: Apache-2.0
"""Writes to the paged KV cache."""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.emulation.fp8 import to_fp8
from vllm_xpu_fp8_plugin.emulation.registry import op

# vLLM's names of KV cache dtypes that are FP8.
FP8_CACHE_DTYPES = {
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


@op("_C_cache_ops::reshape_and_cache_flash")
def reshape_and_cache_flash(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    kv_cache_dtype: str,
    k_scale: Tensor,
    v_scale: Tensor,
) -> None:
    """Write one step's keys and values to their slots.

    Args:
        key: [num_tokens, num_kv_heads, head_size]; may be longer than `slot_mapping`.
        value: As `key`.
        key_cache: [num_blocks, block_size, num_kv_heads, head_size], of any strides.
        value_cache: As `key_cache`.
        slot_mapping: [num_tokens]; block * block_size + offset, negative to skip.
        kv_cache_dtype: "auto" stores as is; an FP8 name divides by the scale first.
        k_scale: One value.
        v_scale: One value.

    """
    block_size = key_cache.shape[1]
    keep = slot_mapping >= 0
    slots = slot_mapping[keep]
    blocks, offsets = slots // block_size, slots % block_size
    for new, cache, scale in (
        (key, key_cache, k_scale),
        (value, value_cache, v_scale),
    ):
        rows = new[: slot_mapping.shape[0]][keep]
        if fp8 := FP8_CACHE_DTYPES.get(kv_cache_dtype):
            rows = to_fp8(rows.float() / scale.float(), fp8).view(torch.uint8)
            cache = cache.view(torch.uint8)
        elif kv_cache_dtype != "auto" and cache.dtype != new.dtype:
            raise RuntimeError(
                f"reshape_and_cache_flash: kv_cache_dtype={kv_cache_dtype!r} with keys "
                f"of {new.dtype} and a cache of {cache.dtype}"
            )
        cache[blocks, offsets] = rows
