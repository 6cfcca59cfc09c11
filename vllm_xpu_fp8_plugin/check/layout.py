# SPDX-License-Identifier: Apache-2.0
"""Tensors that lie between the elements of another: keys and values of one cache.

vLLM's layout [..., 2 * head_size] has each head's values behind its keys, and a kernel
may ask for just that.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check.call import once


class Beside(NamedTuple):
    """Where a tensor lies.

    Attributes:
        name: The tensor between whose elements it lies.
        distance: From that one's first element to its own, in elements.

    """

    name: str
    distance: int


def interleaved(tensors: dict[str, Tensor]) -> dict[str, Beside]:
    """Return each tensor that lies between the elements of another -> where."""
    found: dict[str, Beside] = {}
    for name, tensor in tensors.items():
        for other, first in tensors.items():
            if not _alike(tensor, first) or other in found:
                continue
            distance = int(tensor.storage_offset() - first.storage_offset())
            if 0 < distance < extent(first):
                found[name] = Beside(other, distance)
                break
    return found


def joined(first: Tensor, second: Tensor, distance: int) -> tuple[Tensor, Tensor]:
    """Return both in one memory, on the CPU.

    Args:
        first: In its strides.
        second: Of the same strides.
        distance: From the first element of one to that of the other.

    """
    offset = first.storage_offset()
    memory = torch.zeros(offset + distance + extent(first), dtype=first.dtype)
    views = []
    for tensor, start in ((first, offset), (second, offset + distance)):
        view = memory.as_strided(tensor.shape, tensor.stride(), start)
        once(view).copy_(once(tensor))
        views.append(view)
    return views[0], views[1]


def extent(tensor: Tensor) -> int:
    """Return how many elements lie from the first to the last one."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((n - 1) * stride for n, stride in steps)


def _alike(one: Tensor, other: Tensor) -> bool:
    return (
        one is not other
        and one.numel() > 0
        and one.dtype == other.dtype
        and one.device == other.device
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        # Of a cache's pages: [2, pages, ...] is two tensors, one behind the other.
        and not one.is_contiguous()
    )
