# SPDX-License-Identifier: Apache-2.0
"""Loads and stores of blocks, each against a statement of what it does.

The statements follow documentation/visa of intel/intel-graphics-compiler.
"""

from typing import Any

import numpy as np
import pytest

from tests.virtual_xpu.assembly import LANES, Array, run
from tests.virtual_xpu.payloads import Payload
from vllm_xpu_fp8_plugin import virtual_xpu

virtual_xpu.enable()
RANDOM = np.random.default_rng(7)


def pow2(size: int) -> int:
    return 1 << (size - 1).bit_length()


def block_registers(
    payload: Payload, bits: int, blocks: int, width: int, height: int, order: str
) -> Array:
    """LSC_UNTYPED.md, LOAD_BLOCK2D: the bytes of the registers."""
    size = bits // 8
    transposed, packed = order[0] == "t", order[1] == "t"
    row = pow2(height if transposed else width)
    rows = width if transposed else height
    block = -(-row * rows * size // 64) * 64
    out = np.zeros(block * blocks, np.uint8)
    group = 4 // size if packed else 1
    for b in range(blocks):
        for y in range(height):
            for x in range(width):
                column, line = payload.x + b * width + x, payload.y + y
                if not (0 <= column * size < payload.width):
                    continue
                if not 0 <= line < payload.height:
                    continue
                if transposed:
                    at = x * row + y
                else:
                    at = (y // group * row + x) * group + y % group
                memory = line * payload.pitch + column * size
                target = b * block + at * size
                out[target : target + size] = payload.surface[memory : memory + size]
    return out


def registers_of(lanes: Array) -> Array:
    """Return the bytes of the registers that hold [count, 16] values."""
    return np.frombuffer(np.ascontiguousarray(lanes).tobytes(), np.uint8)


LOAD = "lsc_load_block2d.ugm (M1, 1)  $0:d$2.$3x$4nn flat[$1+(0,0)]"
LOADS = [
    # element bits, blocks, width, height, order, the lane's elements: bits, count
    (16, 1, 16, 8, "nn", 16, 8),
    (16, 2, 16, 16, "nn", 16, 32),
    (8, 1, 32, 16, "nn", 16, 16),
    (16, 2, 16, 16, "nt", 16, 32),
    (8, 2, 16, 32, "nt", 8, 64),
    (8, 1, 16, 32, "nt", 8, 32),
    (32, 1, 8, 16, "tn", 16, 16),
    (32, 1, 8, 16, "tn", 8, 32),
    (32, 1, 8, 16, "tn", 32, 8),
    (16, 4, 8, 16, "nn", 16, 32),
    (16, 1, 12, 8, "nn", 16, 8),
]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (9, 3), (-3, -2), (50, 37), (500, 0)])
@pytest.mark.parametrize("load", LOADS, ids=str)
def test_block_load(load: tuple[int, ...], x: int, y: int) -> None:
    """Catches an element of another place, and one outside that is not zero."""
    bits, blocks, width, height, order, own_bits, count = load
    surface = RANDOM.integers(1, 256, 40 * 192, dtype=np.uint8)
    payload = Payload(surface, 132, 38, 192, x, y)
    text = "lsc_load_block2d.ugm (M1, 1)  $0:d$2.$3x$4x$5" + str(order)
    text += " flat[$1+(0,0)]"
    kind = {8: np.uint8, 16: np.uint16, 32: np.uint32}[own_bits]
    got = run(
        text,
        "=rw,rw.u,P,P,P,P",
        [payload, bits, blocks, width, height],
        (kind, count),
    )
    assert got is not None
    expected = block_registers(payload, bits, blocks, width, height, str(order))
    np.testing.assert_array_equal(registers_of(got)[: len(expected)], expected)


def test_a_block_is_where_the_first_lane_says() -> None:
    """Catches a payload of each lane's own, as MHC's kernels would get."""
    surface = RANDOM.integers(1, 256, 40 * 192, dtype=np.uint8)
    payload = Payload(surface, 132, 38, 192, 9, 3, by_lane=True)
    got = run(LOAD, "=rw,rw.u,P,P,P", [payload, 16, 16, 8], (np.uint16, 8))
    assert got is not None
    expected = block_registers(payload, 16, 1, 16, 8, "nn")
    np.testing.assert_array_equal(registers_of(got), expected)


@pytest.mark.parametrize(
    "how",
    [
        {"moved": (5, 0)},
        {"moved": (-2, 3)},
        {"passes": (4,), "used": 0},
        {"passes": (4,), "used": 2},
        {"passes": (3, 4), "used": 5},
        {"passes": (2, 4), "used": 3, "moved": (1, 1)},
    ],
    ids=str,
)
def test_a_block_that_is_moved_or_kept(how: dict[str, Any]) -> None:
    """Catches a block that is not moved, and payloads of a loop that are one."""
    surface = RANDOM.integers(1, 256, 40 * 192, dtype=np.uint8)
    payload = Payload(surface, 132, 38, 192, 9, 3, **how)
    got = run(LOAD, "=rw,rw.u,P,P,P", [payload, 16, 16, 8], (np.uint16, 8))
    assert got is not None
    expected = block_registers(payload, 16, 1, 16, 8, "nn")
    np.testing.assert_array_equal(registers_of(got), expected)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"passes": (99, 9)}, "891 2D block payloads in loops"),
        ({"passes": (1 << 31, 2)}, "2147483648 2D block payloads in loops"),
        ({"passes": (4,), "counted": False}, "made in a loop and kept"),
    ],
    ids=str,
)
def test_payloads_that_have_no_place_of_their_own_are_refused(
    how: dict[str, Any], why: str
) -> None:
    """Catches memory for whatever a loop says, a count that wraps, and a guess."""
    payload = Payload(np.zeros(40 * 192, np.uint8), 132, 38, 192, 0, 0, **how)
    with pytest.raises(ValueError, match=why):
        run(LOAD, "=rw,rw.u,P,P,P", [payload, 16, 16, 8], (np.uint16, 8))


@pytest.mark.parametrize(("x", "y"), [(0, 0), (9, 3), (-3, -2), (60, 36)])
def test_block_store(x: int, y: int) -> None:
    """Catches a store outside of the surface, and one of a wrong place."""
    surface = np.zeros(40 * 192, np.uint8)
    data = RANDOM.integers(1, 1 << 16, (8, LANES), dtype=np.uint16)
    payload = Payload(surface, 132, 38, 192, x, y)
    text = "lsc_store_block2d.ugm (M1, 1) flat[$1+(0,0)] $0:d$2.$3x$4nn"
    run(text, "rw,rw.u,P,P,P", [data, payload, 16, 16, 8])
    expected = np.zeros((40, 96), np.uint16)
    for row in range(8):
        for column in range(16):
            if 0 <= x + column < 66 and 0 <= y + row < 38:
                expected[y + row, x + column] = data[row, column]
    np.testing.assert_array_equal(surface.view(np.uint16).reshape(40, 96), expected)
