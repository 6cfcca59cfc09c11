# SPDX-License-Identifier: Apache-2.0
"""Calls on a KV cache with the pages alone that they use: a cache fills the device."""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check.call import Call

_CACHES = {"key_cache", "value_cache", "kv_cache", "src_cache"}
# Pages that are kept beside those in use, to write where nothing should be written.
_SPARE = 2


def compact(call: Call) -> Call:
    """Return the call with a cache of the pages that its tables name, renumbered.

    Args:
        call: Of tensors on any device.

    """
    arguments = call.arguments
    table, slots = arguments.get("block_table"), arguments.get("slot_mapping")
    names = _CACHES & set(arguments)
    if isinstance(table, Tensor) and "k" in arguments:
        names = {"k", "v"}
    caches = {n: arguments[n] for n in names}
    if not caches or not (isinstance(table, Tensor) or isinstance(slots, Tensor)):
        return call
    changes: dict[str, Tensor] = {}
    count = min(len(c) for c in caches.values())
    if isinstance(table, Tensor):
        used = _used_pages(call, table, count)
        changes["block_table"] = _renumbered(table.cpu().long(), used, table)
    else:
        assert isinstance(slots, Tensor)
        block = _block_size(next(iter(caches.items())))
        host = slots.cpu().long()
        used = torch.unique(host[host >= 0] // block)
        used = _with_spare(used, count)
        numbers = _numbers(used, count)
        moved = numbers[host.clamp(min=0) // block] * block + host % block
        changes["slot_mapping"] = moved.where(host >= 0, host).to(slots.dtype)
    for name, cache in caches.items():
        changes[name] = _taken(cache, used)
    return call.with_arguments(**changes)


def _used_pages(call: Call, table: Tensor, count: int) -> Tensor:
    """Return the pages that a sequence's length reaches, and a spare one or two."""
    host = table.cpu().long()
    lengths = call.arguments.get("seqused_k")
    cache = call.arguments.get("k", call.arguments.get("src_cache"))
    if isinstance(lengths, Tensor) and isinstance(cache, Tensor):
        reached = -(-lengths.cpu().long() // cache.shape[1])
        column = torch.arange(host.shape[1])
        host = host[: len(reached)][column < reached[:, None]]
    used = torch.unique(host)
    return _with_spare(used[(used >= 0) & (used < count)], count)


def _with_spare(used: Tensor, count: int) -> Tensor:
    """Add pages that are not used; the first page is always there."""
    taken = set(used.tolist())
    spare = [p for p in range(min(count, len(taken) + _SPARE)) if p not in taken]
    return torch.tensor(sorted(taken | set(spare[:_SPARE])), dtype=torch.int64)


def _numbers(used: Tensor, count: int) -> Tensor:
    numbers = torch.zeros(count, dtype=torch.int64)
    numbers[used] = torch.arange(len(used))
    return numbers


def _renumbered(host: Tensor, used: Tensor, table: Tensor) -> Tensor:
    numbers = _numbers(used, int(max(host.max(), used.max())) + 1)
    # What is beyond a sequence's length names any page.
    return numbers[host.clamp(min=0)].to(table.dtype)


def _block_size(cache: tuple[str, Tensor]) -> int:
    name, tensor = cache
    # reshape_and_cache has [blocks, heads, size / x, block, x].
    return tensor.shape[3] if name.endswith("_cache") and tensor.dim() == 5 else (
        tensor.shape[1]
    )  # fmt: skip


def _taken(cache: Tensor, used: Tensor) -> Tensor:
    """Return these pages of a cache, on the CPU, in pages of its strides."""
    parts = [cache[p].cpu() for p in used.tolist()]
    shape = (len(parts), *cache.shape[1:])
    stride = cache.stride()
    # A layout of [2, blocks, ...] or [blocks, 2, ...]: strides of a page stay.
    extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    taken = torch.zeros(extent, dtype=cache.dtype).as_strided(shape, stride)
    for page, part in zip(taken, parts, strict=True):
        page.copy_(part)
    return taken
