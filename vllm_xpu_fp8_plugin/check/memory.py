# SPDX-License-Identifier: Apache-2.0
"""Tensors on the device in memory that shows what an op has read and written.

Each lies between guard bands, in the strides and at the alignment that it has in the
call; the bands and the gaps of its strides hold a pattern.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import layout
from vllm_xpu_fp8_plugin.check.call import Call, is_tensors, once
from vllm_xpu_fp8_plugin.check.expected import bits

# All ones: NaN in every floating type that has one, -1 as an integer.
POISON = 0xFF
# Another, which shows that an integer of the first was not written.
OTHER_POISON = 0x6B
_PATTERN = 0xC7
_GUARD = 16384
_ALIGNMENT = 512


class Slab:
    """A tensor between guard bands.

    Attributes:
        before: The memory before the call, on the CPU.

    """

    def __init__(
        self,
        tensor: Tensor,
        poison: int | None,
        beside: "tuple[Slab, int] | None" = None,
        room: int = 0,
    ):
        """Lay out `tensor`, or poison in its place.

        Args:
            tensor: On the CPU.
            poison: A byte, or None for the tensor's own values.
            beside: The slab between whose elements it lies, and how far from its
                first element; None for memory of its own.
            room: Elements that one which lies between ends behind its end.

        """
        self.before: Tensor
        self._start: int
        self._like = tensor
        self._others: list[Slab] = []
        self._first = beside[0] if beside else self
        size, item = layout.extent(tensor), tensor.itemsize
        if beside:
            self._start = beside[0]._start + beside[1]
            self.before = beside[0].before
            self._first._others.append(self)
        else:
            # Kernels take other paths where memory is not aligned.
            shift = tensor.storage_offset() * item % _ALIGNMENT // item * item
            self._start = (_GUARD + shift) // item
            total = _GUARD + shift + (size + room) * item + _GUARD
            self.before = torch.full((-(-total // item) * item,), _PATTERN).byte()
        inside = self.inside(self.before)
        if poison is None:
            once(inside).copy_(once(tensor))
        else:
            filling = torch.full((tensor.numel() * item,), poison).byte()
            inside.copy_(filling.view(tensor.dtype).view(tensor.shape))

    def move(self, device: torch.device) -> None:
        """Copy the memory to the device."""
        self._memory = self.before.to(device)

    @property
    def view(self) -> Tensor:
        """The tensor, on the device."""
        return self.inside(self._first._memory)

    def after(self) -> Tensor:
        """Return the memory as it is now, on the CPU."""
        return self._first._memory.cpu()

    def inside(self, memory: Tensor) -> Tensor:
        """Return the tensor that lies in `memory`."""
        typed = memory.view(self._like.dtype)
        return typed.as_strided(self._like.shape, self._like.stride(), self._start)

    @property
    def is_first(self) -> bool:
        """Whether the memory is its own."""
        return self._first is self

    def outside(self, after: Tensor) -> str:
        """Say what was written around the tensor and those between, or ""."""
        changed = after != self.before
        # What belongs to them is looked at elsewhere.
        for slab in (self, *self._others):
            bits(once(slab.inside(changed.view(torch.uint8)))).zero_()
        where = changed.nonzero().flatten()
        if not len(where):
            return ""
        item = self._like.itemsize
        start = self._start * item
        end = start + layout.extent(self._like) * item
        if self._others:
            end = max(end, *(s._start * item + end - start for s in self._others))
        first, last = int(where[0]), int(where[-1])
        if last < start:
            return f"{start - first} bytes before its start"
        if first >= end:
            return f"{last + 1 - end} bytes behind its end"
        if first >= start and last < end:
            return f"{len(where)} bytes in the gaps of its strides"
        return f"{len(where)} bytes around it"


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
        tensors = call.tensors()
        between = layout.interleaved(tensors)
        # Those that others lie between come first.
        for name in sorted(tensors, key=lambda n: n in between):
            tensor = tensors[name]
            if name in call.host:
                self.arguments[name] = tensor.clone()
                continue
            key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            # A tensor that is passed twice is one tensor.
            slab = seen.get(key) if tensor.numel() else None
            if slab is None:
                filling = poison if name in poisoned else None
                where = between.get(name)
                beside = (self.slabs[where.name], where.distance) if where else None
                room = max(
                    (b.distance for b in between.values() if b.name == name), default=0
                )
                slab = seen[key] = Slab(tensor, filling, beside, room)
            self.slabs[name] = slab
        for slab in self.slabs.values():
            if slab.is_first:
                slab.move(device)
        for name, slab in self.slabs.items():
            if name in self.arguments:
                self.arguments[name] = slab.view
        for name, value in call.arguments.items():
            if is_tensors(value):
                lists = [self.slabs[f"{name}.{i}"].view for i in range(len(value))]
                self.arguments[name] = lists
