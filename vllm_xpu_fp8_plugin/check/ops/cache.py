# SPDX-License-Identifier: Apache-2.0
"""Writes to the KV cache: pages of slots, as they are or as FP8."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected, bits
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_FP8 = {"fp8": making.E4M3, "fp8_e4m3": making.E4M3, "fp8_e5m2": making.E5M2}


def fp8_of(kv_cache_dtype: str) -> torch.dtype | None:
    """Return what an FP8 cache holds, None for a cache of the model's type."""
    return _FP8.get(kv_cache_dtype)


def stored(
    cache: Tensor,
    places: tuple[Tensor | slice, ...],
    new: Tensor,
    kv_cache_dtype: str,
    scale: Tensor | float,
) -> Expected:
    """Return a cache in which `new` is stored at `places`, and nothing else."""
    written = torch.zeros(cache.shape, dtype=torch.bool)
    written[places] = True
    fp8 = fp8_of(kv_cache_dtype)
    if fp8 is None:
        exact = bits(cache).clone()
        exact[places] = bits(new.contiguous()).view(new.shape)
        return Expected(exact, written=written)
    values = torch.zeros(cache.shape, dtype=torch.float64)
    factor = scale if isinstance(scale, float) else scale.double().flatten()[0]
    values[places] = new.double() / factor
    return Expected(values, dtype=fp8, relative=2.0**-22, written=written)


def slots_of(mapping: Tensor, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return which tokens are written, to which pages, and where in them."""
    tokens = (mapping >= 0).nonzero().flatten()
    slots = mapping[tokens]
    return tokens, slots // block_size, slots % block_size


def mapping(tokens: int, slots: int) -> Tensor:
    """Return distinct slots; a token of a few is left out."""
    chosen = making.distinct(tokens, slots)
    if tokens > 2:
        chosen[tokens // 2] = -1
    return chosen


def _cases() -> Iterator[Arguments]:
    # Tokens, heads, head size, pages, tokens a page.
    shapes = ((7, 2, 128, 5, 16), (1, 8, 64, 2, 64), (80, 3, 80, 8, 16))
    for dtype in making.FLOATS:
        for kind in ("auto", "fp8", "fp8_e5m2"):
            for tokens, heads, size, pages, block in shapes:
                stored_as = dtype if kind == "auto" else torch.uint8
                shape = (pages, block, heads, size)
                cache = making.empty(2, *shape, dtype=stored_as)
                yield {
                    "key": making.normal(tokens, heads, size, dtype=dtype, size=3),
                    "value": making.normal(tokens, heads, size, dtype=dtype, size=3),
                    "key_cache": cache[0],
                    "value_cache": cache[1],
                    "slot_mapping": mapping(tokens, pages * block),
                    "kv_cache_dtype": kind,
                    "k_scale": making.positive(1),
                    "v_scale": making.positive(1, low=0.2, high=0.4),
                }
    for dtype in making.HALVES:
        # Pages of keys and values in turn; more keys than slots; no token.
        cache = making.empty(5, 2, 16, 2, 64, dtype=dtype)
        for tokens in (4, 0):
            yield {
                "key": making.normal(tokens + 2, 2, 64, dtype=dtype),
                "value": making.normal(tokens + 2, 2, 64, dtype=dtype),
                "key_cache": cache[:, 0],
                "value_cache": cache[:, 1],
                "slot_mapping": mapping(tokens, 80),
                "kv_cache_dtype": "auto",
                "k_scale": torch.ones(1),
                "v_scale": torch.ones(1),
            }


_HOW = {"vary": ("key", "value"), "largest": 400.0}


@checked("_C_cache_ops::reshape_and_cache_flash", _cases, **_HOW)
def reshape_and_cache_flash(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    kv_cache_dtype: str,
    k_scale: Tensor,
    v_scale: Tensor,
) -> dict[str, Expected]:
    tokens, pages, offsets = slots_of(slot_mapping, key_cache.shape[1])
    place = pages, offsets
    return {
        "key_cache": stored(key_cache, place, key[tokens], kv_cache_dtype, k_scale),
        "value_cache": stored(
            value_cache, place, value[tokens], kv_cache_dtype, v_scale
        ),
    }


def _split() -> Iterator[Arguments]:
    for dtype in making.HALVES:
        for kind in ("auto", "fp8"):
            stored_as = dtype if kind == "auto" else torch.uint8
            x = 16 // stored_as.itemsize
            yield {
                "key": making.normal(5, 2, 64, dtype=dtype),
                "value": making.normal(5, 2, 64, dtype=dtype),
                "key_cache": making.empty(4, 2, 64 // x, 16, x, dtype=stored_as),
                "value_cache": making.empty(4, 2, 64, 16, dtype=stored_as),
                "slot_mapping": mapping(5, 64),
                "kv_cache_dtype": kind,
                "k_scale": making.positive(1),
                "v_scale": making.positive(1),
            }


@checked("_C_cache_ops::reshape_and_cache", _split, **_HOW)
def reshape_and_cache(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    kv_cache_dtype: str,
    k_scale: Tensor,
    v_scale: Tensor,
) -> dict[str, Expected]:
    _, heads, size = key.shape
    x = key_cache.shape[-1]
    tokens, pages, offsets = slots_of(slot_mapping, key_cache.shape[3])
    every = slice(None)
    keys = key[tokens].view(-1, heads, size // x, x)
    return {
        "key_cache": stored(
            key_cache, (pages, every, every, offsets), keys, kv_cache_dtype, k_scale
        ),
        "value_cache": stored(
            value_cache,
            (pages, every, every, offsets),
            value[tokens],
            kv_cache_dtype,
            v_scale,
        ),
    }


def _latent() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for kind in ("auto", "fp8"):
            for tokens, rank, rotary in ((5, 512, 64), (1, 96, 32)):
                stored_as = dtype if kind == "auto" else torch.uint8
                yield {
                    "kv_c": making.normal(tokens, rank, dtype=dtype, size=3),
                    "k_pe": making.normal(tokens, rotary, dtype=dtype, size=3),
                    "kv_cache": making.empty(4, 16, rank + rotary, dtype=stored_as),
                    "slot_mapping": mapping(tokens, 64),
                    "kv_cache_dtype": kind,
                    "scale": making.positive(1),
                }


@checked(
    "_C_cache_ops::concat_and_cache_mla", _latent, vary=("kv_c", "k_pe"), largest=400.0
)
def concat_and_cache_mla(
    kv_c: Tensor,
    k_pe: Tensor,
    kv_cache: Tensor,
    slot_mapping: Tensor,
    kv_cache_dtype: str,
    scale: Tensor,
) -> dict[str, Expected]:
    tokens, pages, offsets = slots_of(slot_mapping, kv_cache.shape[1])
    entries = torch.cat([kv_c[tokens], k_pe[tokens]], dim=1)
    place = pages, offsets
    return {"kv_cache": stored(kv_cache, place, entries, kv_cache_dtype, scale)}
