# SPDX-License-Identifier: Apache-2.0
"""A module of SPIR-V, put together word by word."""

import struct

import numpy as np
from numpy.typing import NDArray


class Module:
    """Words of a SPIR-V module with one kernel around one assembly."""

    def __init__(self) -> None:
        self.head: list[int] = []
        self.types: list[int] = []
        self.body: list[int] = []
        self._known: dict[tuple[int, ...], int] = {}
        self.bound = 1

    def fresh(self) -> int:
        self.bound += 1
        return self.bound - 1

    @staticmethod
    def put(out: list[int], code: int, *operands: int) -> None:
        out += [(len(operands) + 1) << 16 | code, *operands]

    def type(self, code: int, *operands: int) -> int:
        key = (code, *operands)
        if key not in self._known:
            self._known[key] = made = self.fresh()
            self.put(self.types, code, made, *operands)
        return self._known[key]

    def number(self, kind: int, *words: int) -> int:
        key = (43, kind, *words)
        if key not in self._known:
            self._known[key] = made = self.fresh()
            self.put(self.types, 43, kind, made, *words)
        return self._known[key]

    def emit(self, code: int, kind: int, *operands: int) -> int:
        made = self.fresh()
        self.put(self.body, code, kind, made, *operands)
        return made

    def words(self) -> NDArray[np.uint32]:
        head = [0x07230203, 0x00010400, 0, self.bound, 0]
        return np.array(head + self.head + self.types + self.body, np.uint32)


def words_of(text: str) -> list[int]:
    raw = text.encode() + b"\0"
    return list(struct.unpack(f"<{-(-len(raw) // 4)}I", raw + b"\0" * (-len(raw) % 4)))
