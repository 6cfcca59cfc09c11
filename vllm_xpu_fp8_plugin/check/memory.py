# SPDX-License-Identifier: Apache-2.0
"""Tensors on the device in memory that shows what an op has read and written.

Each lies between guard bands, in the strides and at the alignment that it has in the
call; the bands and the gaps of its strides hold a pattern.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check.call import Call, is_tensors

# All ones: NaN in every floating type that has one, -1 as an integer.
POISON = 0xFF
# Another, which shows that an integer of the first was not written.
OTHER_POISON = 0x6B
_GUARD_PATTERN = 0xC7
_GUARD = 16384
_ALIGNMENT = 512


class Slab:
    """A tensor between guard bands.

    Attributes:
        view: The tensor, on the device.

    """

    def __init__(self, tensor: Tensor, device: torch.device, poison: int | None):
        """Lay out `tensor`, or poison in its place."""
        self._like = tensor
        size, item = _extent(tensor), tensor.itemsize
        # Kernels take other paths where memory is not aligned.
        shift = tensor.storage_offset() * item % _ALIGNMENT // item * item
        self._start = (_GUARD + shift) // item
        total = _GUARD + shift + size * item + _GUARD
        host = torch.full((-(-total // item) * item,), _GUARD_PATTERN).byte()
        inside = self._strided(host)
        if poison is None:
            inside.copy_(tensor)
        else:
            filling = torch.full((tensor.numel() * item,), poison).byte()
            inside.copy_(filling.view(tensor.dtype).view(tensor.shape))
        self.before = host
        self._memory = host.to(device)
        self.view = self._strided(self._memory)

    def _strided(self, memory: Tensor) -> Tensor:
        typed = memory.view(self._like.dtype)
        return typed.as_strided(self._like.shape, self._like.stride(), self._start)

    def after(self) -> Tensor:
        """Return the memory as it is now, on the CPU."""
        return self._memory.cpu()

    def inside(self, memory: Tensor) -> Tensor:
        """Return the tensor that lies in `memory`."""
        return self._strided(memory)

    def outside(self, after: Tensor) -> str:
        """Say what was written around the tensor, or ""."""
        changed = after != self.before
        # What belongs to the tensor is looked at elsewhere.
        self._strided(changed.view(torch.uint8)).zero_()
        where = changed.nonzero().flatten()
        if not len(where):
            return ""
        start = self._start * self._like.itemsize
        end = start + _extent(self._like) * self._like.itemsize
        first, last = int(where[0]), int(where[-1])
        if last < start:
            return f"{start - first} bytes before its start"
        if first >= end:
            return f"{last + 1 - end} bytes behind its end"
        if first >= start and last < end:
            return f"{len(where)} bytes in the gaps of its strides"
        return f"{len(where)} bytes around it"

    def spans(self, tensor: Tensor) -> bool:
        """Whether a tensor on the device lies in this memory."""
        start = self._memory.data_ptr()
        return start <= tensor.data_ptr() < start + self._memory.numel()


class Memory:
    """The tensors of a call on the device."""

    def __init__(
        self, call: Call, device: torch.device, poisoned: Iterable[str], poison: int
    ):
        """Lay out the call's tensors; those `poisoned` hold poison."""
        poisoned = set(poisoned)
        self.slabs: dict[str, Slab] = {}
        self.arguments = dict(call.arguments)
        seen: dict[tuple[Any, ...], Slab] = {}
        for name, tensor in call.tensors().items():
            if name in call.host:
                self.arguments[name] = tensor.clone()
                continue
            key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            # A tensor that is passed twice is one tensor.
            slab = seen.get(key) if tensor.numel() else None
            if slab is None:
                filling = poison if name in poisoned else None
                slab = seen[key] = Slab(tensor, device, filling)
            self.slabs[name] = slab
            if name in self.arguments:
                self.arguments[name] = slab.view
        for name, value in call.arguments.items():
            if is_tensors(value):
                lists = [self.slabs[f"{name}.{i}"].view for i in range(len(value))]
                self.arguments[name] = lists


def _extent(tensor: Tensor) -> int:
    """Return how many elements lie from the first to the last one."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((n - 1) * stride for n, stride in steps)
