# SPDX-License-Identifier: Apache-2.0
"""Writes to the paged KV cache.

Contracts: csrc/cache.cpp of vllm-xpu-kernels, and the device code in its wheels.
"""

from torch import Tensor

from vllm_xpu_fp8_plugin.reference.cache_dtype import (
    as_stored,
    encode,
    stored_as,
    written_slots,
)
from vllm_xpu_fp8_plugin.reference.refusals import require
from vllm_xpu_fp8_plugin.reference.registry import op


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
        key: [num_tokens, num_kv_heads, head_size], heads contiguous; may be longer
            than `slot_mapping`.
        value: As `key`, with a head size of its own.
        key_cache: [num_blocks, block_size, num_kv_heads, head_size], written. Its
            heads follow each other, or each is followed by the value's (a view of
            [..., 2 * head_size]).
        value_cache: As `key_cache`.
        slot_mapping: [num_tokens], int64; block * block_size + offset, negative to
            skip.
        kv_cache_dtype: "auto" stores as is; an FP8 name divides by the scale first.
        k_scale: One value.
        v_scale: One value.

    Raises:
        RuntimeError: Types or layouts are not the kernel's.

    """
    name = "reshape_and_cache_flash"
    fp8 = stored_as(name, kv_cache_dtype, key.dtype)
    _require_layout(name, key, value, key_cache, value_cache)
    tokens, blocks, offsets = written_slots(name, slot_mapping, key_cache.shape[1])
    for new, cache, scale in ((key, key_cache, k_scale), (value, value_cache, v_scale)):
        stored = as_stored(name, cache, fp8, new.dtype)
        stored[blocks, offsets] = encode(new[tokens], fp8, scale)


def _require_layout(
    name: str, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor
) -> None:
    """Refuse what the kernel, which takes few strides, refuses or gets wrong."""
    head_size = key.shape[2]
    for which, new, cache in (("key", key, key_cache), ("value", value, value_cache)):
        require(
            new.dtype == key.dtype and new[0:1].is_contiguous(),
            "{}: key and value must be of one type, each token contiguous; {} has "
            "shape {}, strides {}",
            name,
            which,
            new.shape,
            new.stride(),
        )
        require(
            new.shape[1:] == cache.shape[2:] and cache.stride(3) == 1,
            "{}: {} of shape {} and its cache of shape {} and strides {} do not fit",
            name,
            which,
            new.shape,
            cache.shape,
            cache.stride(),
        )
    if key_cache.stride(2) == head_size:
        require(
            value.shape[1] == 1 or value_cache.stride(2) == value.shape[2],
            "{}: the heads of value_cache must be contiguous, got strides {}",
            name,
            value_cache.stride(),
        )
        return
    require(
        value_cache.data_ptr() == key_cache.data_ptr() + head_size * key_cache.itemsize
        and value_cache.stride() == key_cache.stride()
        and value_cache.shape == key_cache.shape,
        "{}: heads that do not follow each other require value_cache to be adjacent "
        "to key_cache, [..., 2 * head_size] split in two",
        name,
    )


@op("_C_cache_ops::reshape_and_cache")
def reshape_and_cache(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    kv_cache_dtype: str,
    k_scale: Tensor,
    v_scale: Tensor,
) -> None:
    """Write one step's keys and values to their slots of a cache split in `x`.

    Args:
        key: [num_tokens, num_kv_heads, head_size], heads contiguous; may be longer
            than `slot_mapping`.
        value: As `key`.
        key_cache: [num_blocks, num_kv_heads, head_size / x, block_size, x],
            contiguous, written.
        value_cache: [num_blocks, num_kv_heads, head_size, block_size], contiguous,
            written.
        slot_mapping: [num_tokens], int64; block * block_size + offset, negative to
            skip.
        kv_cache_dtype: "auto".
        k_scale: Not used without FP8.
        v_scale: Not used without FP8.

    Raises:
        NotImplementedError: An FP8 cache is asked for.
        RuntimeError: Types or layouts are not the kernel's.

    """
    name = "reshape_and_cache"
    fp8 = stored_as(name, kv_cache_dtype, key.dtype)
    if fp8 is not None:
        # Device code of 0.1.12.1 to 0.1.16.2: x * scale is rounded to FP8, and its
        # value, not its bits, is converted to the cache's uint8.
        raise NotImplementedError(
            f"reshape_and_cache in PyTorch refuses kv_cache_dtype="
            f"{kv_cache_dtype!r}: the XPU kernel stores integers in place of FP8. Use "
            "reshape_and_cache_flash, as vLLM does on an XPU."
        )
    heads, head_size = key.shape[1:]
    x = key_cache.shape[-1]
    block_size = key_cache.shape[3]
    require(
        key[0:1].is_contiguous()
        and value[0:1].is_contiguous()
        and key_cache.is_contiguous()
        and value_cache.is_contiguous(),
        "{}: each token of key and value and both caches must be contiguous",
        name,
    )
    require(
        key.shape[1:] == value.shape[1:]
        and list(key_cache.shape[1:]) == [heads, head_size // x, block_size, x]
        and list(value_cache.shape[1:]) == [heads, head_size, block_size],
        "{}: key of shape {}, value {}, key_cache {} and value_cache {} do not fit",
        name,
        key.shape,
        value.shape,
        key_cache.shape,
        value_cache.shape,
    )
    tokens, blocks, offsets = written_slots(name, slot_mapping, block_size)
    keys = as_stored(name, key_cache, None, key.dtype)
    keys[blocks, :, :, offsets] = key[tokens].view(-1, heads, head_size // x, x)
    values = as_stored(name, value_cache, None, value.dtype)
    values[blocks, :, :, offsets] = value[tokens]
