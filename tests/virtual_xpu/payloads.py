# SPDX-License-Identifier: Apache-2.0
"""Address payloads of 2D blocks, as a kernel makes and moves them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.virtual_xpu.spirv_module import Module, words_of

_PRIVATE, _GENERIC = 7, 8
_BUILT_IN = "__builtin_IB_subgroup_{}Block2DAddressPayload{}"


class Payload(NamedTuple):
    """A 2D block address payload.

    Attributes:
        surface: [bytes] The memory that it points to; written by a store.
        width: Of the surface in bytes.
        height: In rows.
        pitch: In bytes.
        x: Of the block, in elements.
        y: Of the block, in rows.
        by_lane: Whether lane l asks for x + l. A GPU takes what the first lane asks.
        moved: Added to x and y once it is made.
        passes: It is made in loops of so many passes, one in the other, x one further
            with each, and kept in an array.
        counted: Whether the number of passes is a constant.
        used: The pass whose payload is taken from there. x and y are this one's.

    """

    surface: NDArray[np.generic]
    width: int
    height: int
    pitch: int
    x: int
    y: int
    by_lane: bool = False
    moved: tuple[int, int] = (0, 0)
    passes: tuple[int, ...] = ()
    counted: bool = True
    used: int = 0


class Payloads:
    """Writes what makes payloads into a module's one kernel."""

    def __init__(self, m: Module) -> None:
        """Declare the functions. `m` gets its first block afterwards."""
        self._m = m
        self.type = m.type(32, _GENERIC, m.type(21, 8, 0))
        u32, u64, void = m.type(21, 32, 0), m.type(21, 64, 0), m.type(19)
        self._u32, self._u64, self._void = u32, u64, void
        self._create = self._declare(self.type, "create", "", u64, *[u32] * 8)
        self._add = [
            self._declare(void, "add", f"Block{axis}", self.type, u32) for axis in "XY"
        ]
        self._kept = 0
        self.block = 0

    def _declare(self, result: int, does: str, field: str, *takes: int) -> int:
        m, function = self._m, self._m.fresh()
        name = words_of(_BUILT_IN.format(does, field))
        m.put(m.head, 71, function, 41, *name, 1)
        m.put(m.body, 54, result, function, 0, m.type(33, result, *takes))
        for kind in takes:
            m.emit(55, kind)
        m.put(m.body, 56)
        return function

    def enter(self) -> None:
        """Begin the kernel's first block."""
        self._label(self._m.fresh())
        number = self._m.number(self._u32, 64)
        array = self._m.type(28, self._u64, number)
        self._kept = self._m.emit(59, self._m.type(32, _PRIVATE, array), _PRIVATE)

    def make(self, payload: Payload, surface: int, lane: int) -> int:
        """Write what makes a payload of memory at `surface`, and return it."""
        numbers: list[tuple[int, int]] = []  # of the loops that it is in: id, passes
        unknown = None if payload.counted else lane
        ends = [self._begin_loop(n, numbers, unknown) for n in payload.passes]
        made = self._make(payload, surface, lane, numbers)
        if not ends:
            return made
        m = self._m
        m.put(m.body, 62, self._place(numbers), m.emit(117, self._u64, made), 2, 8)
        for end in reversed(ends):
            self._end_loop(*end)
        kept = m.emit(
            61, self._u64, self._place([(self._number(payload.used), 64)]), 2, 8
        )
        return m.emit(120, self.type, kept)

    def _make(
        self, payload: Payload, surface: int, lane: int, numbers: list[tuple[int, int]]
    ) -> int:
        m, u32 = self._m, self._u32
        fields = (payload.width - 1, payload.height - 1, payload.pitch - 1)
        fields += (payload.x - payload.used - payload.moved[0],)
        fields += (payload.y - payload.moved[1], 0, 0, 0)
        operands = [self._number(f) for f in fields]
        if payload.by_lane:
            operands[3] = m.emit(128, u32, operands[3], lane)
        if numbers:
            operands[3] = m.emit(128, u32, operands[3], self._pass(numbers))
        base = m.emit(117, self._u64, surface)
        made = m.emit(57, self.type, self._create, base, *operands)
        for function, distance in zip(self._add, payload.moved, strict=True):
            if distance:
                m.emit(57, self._void, function, made, self._number(distance))
        return made

    def _number(self, value: int) -> int:
        return self._m.number(self._u32, value & 0xFFFFFFFF)

    def _pass(self, numbers: list[tuple[int, int]]) -> int:
        m, u32 = self._m, self._u32
        at, _ = numbers[0]
        for number, passes in numbers[1:]:
            at = m.emit(128, u32, m.emit(132, u32, at, self._number(passes)), number)
        return at

    def _place(self, numbers: list[tuple[int, int]]) -> int:
        m = self._m
        pointer = m.type(32, _PRIVATE, self._u64)
        return m.emit(70, pointer, self._kept, self._number(0), self._pass(numbers))

    def _label(self, block: int) -> None:
        self._m.put(self._m.body, 248, block)
        self.block = block

    def _begin_loop(
        self, passes: int, numbers: list[tuple[int, int]], unknown: int | None
    ) -> tuple[int, int, int, int, int]:
        m = self._m
        head, body, last, after = (m.fresh() for _ in range(4))
        following, before = m.fresh(), self.block
        limit = self._number(passes)
        if unknown is not None:
            limit = m.emit(128, self._u32, limit, unknown)
        m.put(m.body, 249, head)
        self._label(head)
        start = (self._number(0), before, following, last)
        number = m.emit(245, self._u32, *start)
        less = m.emit(176, m.type(20), number, limit)
        m.put(m.body, 250, less, body, after)
        self._label(body)
        numbers.append((number, passes))
        return head, last, number, following, after

    def _end_loop(
        self, head: int, last: int, number: int, following: int, after: int
    ) -> None:
        m = self._m
        m.put(m.body, 249, last)
        self._label(last)
        m.put(m.body, 128, self._u32, following, number, self._number(1))
        m.put(m.body, 249, head)
        self._label(after)
