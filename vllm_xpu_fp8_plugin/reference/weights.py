# SPDX-License-Identifier: Apache-2.0
"""Products with weights of few bits, each converted once where rows are many."""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import psutil
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

# A weight is read at each call and rarely changes; converting it each time would
# cost more than the product of a decode step.
_MAX_BYTES = psutil.virtual_memory().total // 2

_Key = tuple[object, ...]


class _Entry(NamedTuple):
    storages: tuple[StorageWeakRef, ...]
    sums: Tensor
    weight: Tensor

    def alive(self) -> bool:
        return not any(storage.expired() for storage in self.storages)


_cache: OrderedDict[_Key, _Entry] = OrderedDict()

_WORDS = 512

# Up to so many rows it is faster to read a weight as it is.
_FEW_ROWS = 32


def linear(rows: Tensor, b: Tensor, scale: Tensor | None) -> Tensor:
    """Return ``rows @ (b * scale)`` in float32.

    Args:
        rows: [M, K], float32.
        b: Weight as `dequantized` takes it.
        scale: Likewise.

    Returns:
        [M, N]

    Raises:
        RuntimeError: `scale` does not fit `b`.

    """
    in_blocks = scale is not None and scale.dim() == 2
    few = rows.shape[0] <= _FEW_ROWS and rows.shape[1] % 16 == 0 and not in_blocks
    if few and _has_few_rows() and b.t().is_contiguous():
        if scale is not None:
            scale = scale.float().contiguous()
        result: Tensor = torch.ops.virtual_xpu.few_rows(rows.contiguous(), b.t(), scale)
        return result
    return torch.nn.functional.linear(rows, dequantized(b, scale))


@functools.cache
def _has_few_rows() -> bool:
    """Return whether the virtual XPU's library, which has the product, is loaded."""
    return hasattr(torch.ops.virtual_xpu, "few_rows")


def dequantized(b: Tensor, scale: Tensor | None) -> Tensor:
    """Return ``(b * scale).T`` in float32, as `torch.nn.functional.linear` takes it.

    Args:
        b: Weight, FP8, fp16 or bf16, [K, N], of any strides.
        scale: One value, [N] values, one a block [K / block_k, N / block_n], or None
            for 1.

    Returns:
        [N, K]

    Raises:
        RuntimeError: `scale` does not fit `b`.

    """

    def convert() -> Tensor:
        weight = b.t().float().contiguous()
        if scale is not None:
            weight.mul_(_expand(scale.float(), *b.shape))
        return weight

    return converted((b,) if scale is None else (b, scale), convert)


def converted(
    sources: tuple[Tensor, ...], convert: Callable[[], Tensor], how: object = None
) -> Tensor:
    """Return what `convert` makes of `sources`, kept until one of them changes.

    Args:
        sources: Tensors that it is made of, whose memory tells it from other weights.
        convert: Makes a weight, [N, K], float32.
        how: What else tells it from other weights of the same tensors.

    """
    key = (
        how,
        *((t.data_ptr(), t.dtype, tuple(t.shape), tuple(t.stride())) for t in sources),
    )
    # A version says nothing of a weight that is loaded again: vLLM writes to `.data`,
    # which has a version of its own, and a tensor of inference mode has none.
    sums = torch.cat([_sums(t) for t in sources])
    entry = _cache.get(key)
    if entry is not None and torch.equal(entry.sums, sums) and entry.alive():
        _cache.move_to_end(key)
        return entry.weight
    _cache.pop(key, None)
    weight = convert()
    storages = tuple(StorageWeakRef(t.untyped_storage()) for t in sources)
    _evict(weight.nbytes)
    _cache[key] = _Entry(storages, sums, weight)
    return weight


def _sums(tensor: Tensor) -> Tensor:
    """Return sums of a tensor's memory, int64, which tell that it has changed.

    Its 8-byte words stand in rows of `_WORDS`, whose sums and those of the columns are
    taken: a change goes unseen only if it cancels out in both. What is left of the last
    row is returned as it is.
    """
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    memory = tensor.permute(order).contiguous().flatten()
    if memory.data_ptr() % 8:
        memory = memory.clone()
    size = memory.nbytes // 8 * 8
    data = memory.view(torch.uint8)
    words = data[:size].view(torch.int64)
    rows = words[: len(words) // _WORDS * _WORDS].view(-1, _WORDS)
    rest = words[rows.numel() :], data[size:].long()
    return torch.cat([rows.sum(0), rows.sum(1), *rest])


def release_unused() -> None:
    """Drop the weights of models that are gone."""
    for key in [key for key, entry in _cache.items() if not entry.alive()]:
        del _cache[key]


def cached_bytes() -> int:
    """Return the size of the cache."""
    return sum(entry.weight.nbytes for entry in _cache.values())


def _evict(incoming: int) -> None:
    release_unused()
    while _cache and cached_bytes() + incoming > _MAX_BYTES:
        _cache.popitem(last=False)


def _expand(scale: Tensor, k: int, n: int) -> Tensor:
    """Return `scale` such that it broadcasts over [N, K]."""
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.dim() == 1 and scale.numel() == n:
        return scale.view(n, 1)
    if scale.dim() != 2 or k % scale.shape[0] or n % scale.shape[1]:
        raise RuntimeError(
            f"FP8 product: a scale of shape {list(scale.shape)} does not fit a weight "
            f"of {k} rows and {n} columns"
        )
    rows, columns = scale.shape
    expanded = scale.t().repeat_interleave(n // columns, dim=0)
    return expanded.repeat_interleave(k // rows, dim=1)
