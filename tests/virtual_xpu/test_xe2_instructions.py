# SPDX-License-Identifier: Apache-2.0
"""An Intel GPU's instructions, each against a statement of what it does.

The statements follow documentation/visa of intel/intel-graphics-compiler. Element e of
lane l of an operand is element 16 * e + l of its registers.
"""

import functools
import mmap
import struct
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.virtual_xpu.assembly import LANES, Array, Payload, run
from vllm_xpu_fp8_plugin import virtual_xpu
from vllm_xpu_fp8_plugin.kernel_package import installed

virtual_xpu.enable()
RANDOM = np.random.default_rng(7)


@functools.cache
def shipped() -> dict[str, tuple[str, str]]:
    """Return the assemblies of the installed attention library: text -> constraints."""
    found: dict[str, tuple[str, str]] = {}
    with (installed.package_dir() / "libattn_kernels_xe_2.so").open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        at = data.find(b"\x03\x02\x23\x07")
        while at >= 0:
            for words in _instructions(data, at + 20):
                if words[0] & 0xFFFF == 5610:
                    raw = struct.pack(f"<{len(words) - 5}I", *words[5:])
                    text, _, rest = raw.partition(b"\0")
                    constraints = rest.lstrip(b"\0").partition(b"\0")[0]
                    found[text.decode()] = (text.decode(), constraints.decode())
            at = data.find(b"\x03\x02\x23\x07", at + 4)
    return found


def _instructions(data: mmap.mmap, at: int) -> Iterator[tuple[int, ...]]:
    """Walk the head of a module, up to its first function."""
    while at + 4 <= len(data):
        (first,) = struct.unpack_from("<I", data, at)
        if not first >> 16 or first & 0xFFFF == 54 or first & 0xFFFF > 7000:
            return
        yield struct.unpack_from(f"<{first >> 16}I", data, at)
        at += (first >> 16) * 4


def assembly(*parts: str) -> tuple[str, str]:
    """Return the one shipped assembly that has all of these parts."""
    texts = [t for t in shipped() if all(part in t for part in parts)]
    assert len(texts) == 1, f"{len(texts)} assemblies with {parts}"
    return shipped()[texts[0]]


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
    text = "lsc_load_block2d.ugm (M1, 1)  $0:d$2.$3x$4nn flat[$1+(0,0)]"
    got = run(text, "=rw,rw.u,P,P,P", [payload, 16, 16, 8], (np.uint16, 8))
    assert got is not None
    expected = block_registers(payload, 16, 1, 16, 8, "nn")
    np.testing.assert_array_equal(registers_of(got), expected)


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


def to_bits(values: torch.Tensor) -> Array:
    return np.asarray(values.view(torch.int16).numpy().view(np.uint16))


@pytest.mark.parametrize(("name", "dtype"), [("bf", "bfloat16"), ("hf", "float16")])
def test_dpas(name: str, dtype: str) -> None:
    """Catches rows, columns or pairs of the small matrices mixed up."""
    kind = getattr(torch, dtype)
    left = torch.randn(8, 16, generator=torch.manual_seed(1)).to(kind)
    right = torch.randn(16, 16, generator=torch.manual_seed(2)).to(kind)
    start = torch.randn(8, 16)
    # B is packed: a 32-bit word of a register has two rows of one column.
    packed = right.view(8, 2, 16).transpose(1, 2).reshape(16, 16)
    text, constraints = assembly(f"dpas.{name}.{name}")
    got = run(
        text,
        constraints,
        [to_bits(left), to_bits(packed), 8, 64, 128, start.numpy()],
        (np.float32, 8),
    )
    exact = start.double() + left.double() @ right.double()
    np.testing.assert_allclose(got, exact.numpy(), rtol=1e-6, atol=1e-5)


def test_dpas_of_tf32() -> None:
    """Catches bits of a mantissa that tf32 has not, and two values of a word."""
    left = torch.randn(8, 8, generator=torch.manual_seed(1))
    right = torch.randn(8, 16, generator=torch.manual_seed(2))
    start = torch.randn(8, 16)
    text = """{
    .decl DST v_type=G type=f num_elts=128 alias=<$0,0>
    .decl LEFT v_type=G type=UD num_elts=64 alias=<$1,0>
    .decl RIGHT v_type=G type=UD num_elts=128 alias=<$2,0>
    dpas.tf32.tf32.8.8 (M1, 16) DST.0 DST.0 RIGHT.0 LEFT(0,0)
    }"""
    words = [t.numpy().view(np.uint32) for t in (left, right)]
    operands = [words[0].reshape(4, LANES), words[1], start.numpy()]
    got = run(text, "=rw,rw,rw,0", operands, (np.float32, 8))
    kept = [(w & np.uint32(0xFFFFE000)).view(np.float32) for w in words]
    short = [torch.from_numpy(w).double() for w in kept]
    exact = start.double() + short[0] @ short[1]
    np.testing.assert_allclose(got, exact.numpy(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("rows", [8, 16])
@pytest.mark.parametrize("operation", ["add", "max"])
def test_reduction_leaves_row_r_in_lane_r(operation: str, rows: int) -> None:
    """Catches a register region read by other strides than its own."""
    text, constraints = assembly(f"X{rows}_S v_type", f"{operation} (")
    data = RANDOM.standard_normal((rows, LANES)).astype(np.float32)
    got = run(text, constraints, [data], (np.float32, 1))
    assert got is not None
    reduce = {"add": np.sum, "max": np.max}[operation]
    exact = reduce(data.astype(np.float64), axis=1)
    np.testing.assert_allclose(got[0, :rows], exact, rtol=1e-5, atol=1e-5)


def test_maximum_of_a_number_and_a_nan_is_the_number() -> None:
    """Catches a NaN that spreads where a GPU drops it (MIN_MAX.md)."""
    text, constraints = assembly("X16_S v_type", "max (")
    data = np.ones((16, LANES), np.float32)
    # In every lane once, so in either operand of each maximum.
    data[np.arange(16), np.arange(16)] = data[4] = np.nan
    got = run(text, constraints, [data], (np.float32, 1))
    assert got is not None
    expected = np.where(np.arange(16) == 4, np.nan, 1)
    np.testing.assert_array_equal(got[0], expected)


@pytest.mark.parametrize(
    ("marks", "source", "target"),
    [
        (("OUT_UW", "0x7B800000:f"), torch.float8_e4m3fn, torch.bfloat16),
        (("OUT_UW", "0x7880:hf"), torch.float8_e4m3fn, torch.float16),
        (("fcvt", "TMP_F"), torch.float8_e5m2, torch.bfloat16),
        (("fcvt", "OUT_HF(0,0)"), torch.float8_e5m2, torch.float16),
    ],
    ids=lambda value: str(value).replace("torch.", ""),
)
def test_fp8_conversion(
    marks: tuple[str, ...], source: torch.dtype, target: torch.dtype
) -> None:
    """Catches a value that changes, subnormals and NaN among them, or its place."""
    text, constraints = assembly(*marks)
    for first in range(0, 256, 64):
        codes = np.arange(first, first + 64, dtype=np.uint8)
        got = run(text, constraints, [codes.reshape(4, LANES)], (np.uint16, 4))
        assert got is not None
        # Four packed rows of a column become twice two.
        order = np.arange(64).reshape(16, 2, 2).transpose(1, 0, 2).ravel()
        values = torch.from_numpy(codes[order]).view(source).to(torch.float64)
        bits = torch.from_numpy(got.ravel().view(np.int16))
        torch.testing.assert_close(
            bits.view(target).double(), values, rtol=0, atol=0, equal_nan=True
        )


def test_float_to_half_rounds_to_even() -> None:
    """Catches rounding towards zero."""
    text, constraints = assembly("IN_F v_type", "OUT_HF v_type")
    data = (1 + RANDOM.integers(0, 1 << 14, (2, LANES)) * 2.0**-12).astype(np.float32)
    got = run(text, constraints, [data], (np.uint16, 2))
    assert got is not None
    np.testing.assert_array_equal(got.view(np.float16), data.astype(np.float16))


def test_float_to_brain_float_rounds_to_even() -> None:
    """Catches halves that go up, and a NaN that rounds to infinity."""
    text = """{
    .decl OUT v_type=G type=BF num_elts=32 alias=<$0,0>
    .decl IN v_type=G type=F num_elts=32 alias=<$1,0>
    mov (M1_NM, 32) OUT(0,0)<1> IN(0,0)<1;1,0>
    }"""
    bits = RANDOM.integers(0, 1 << 17, (2, LANES), dtype=np.uint32) << 15
    bits[0, :3] = 0x7F7FFFFF, 0x7F800001, 0xFF800000
    data = bits.view(np.float32)
    got = run(text, "=rw,rw", [data], (np.uint16, 2))
    assert got is not None
    values = torch.from_numpy(got.view(np.int16).copy()).view(torch.bfloat16)
    expected = torch.from_numpy(data).bfloat16()
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)


def test_local_memory_of_other_sizes_is_refused() -> None:
    """Catches two values a lane of which one would be stored. Attention stores one."""
    text, constraints = assembly("lsc_store.slm")
    with pytest.raises(ValueError, match="32 bits a lane"):
        run(text, constraints, [np.zeros((2, 16), np.uint32)] * 2)


def test_registers_of_one_lane_for_all() -> None:
    """Catches a uniform operand read as if each lane had one, and bfn's table."""
    text = """{
    .decl SHIFTS v_type=G type=UW num_elts=4 alias=<$2,0>
    .decl OUT v_type=G type=UW num_elts=32 alias=<$0,0>
    .decl IN v_type=G type=UB num_elts=32 alias=<$1,0>
    shr (M1_NM, 32) OUT(0,0)<1> IN(0,0)<1;1,0> SHIFTS(0,2)<0;2,1>
    bfn.x6A (M1_NM, 32) OUT(0,0)<1> 0x4308:uw OUT(0,0)<1;1,0> 0xF:uw
    }"""
    data = RANDOM.integers(0, 256, (2, LANES), dtype=np.uint8)
    # Two numbers for all lanes, of which the second holds the shifts.
    shifts = np.stack([np.full(LANES, n, np.uint32) for n in (0, 4 << 16)])
    got = run(text, "=rw,rw,rw.u", [data, shifts], (np.uint16, 2))
    assert got is not None
    shifted = data.ravel() >> np.tile([0, 4], 16)
    # Table 0x6A: s0 ^ (s1 & s2).
    np.testing.assert_array_equal(got.ravel(), 0x4308 ^ (shifted & 0xF))


def test_a_predicate_chooses_and_its_inverse_the_other() -> None:
    """Catches bits of a predicate in another order, and an ignored "!"."""
    text = """{
    .decl EVEN v_type=P num_elts=16
    .decl OUT v_type=G type=UD num_elts=32 alias=<$0,0>
    .decl IN v_type=G type=UD num_elts=16 alias=<$1,0>
    setp (M1_NM, 16) EVEN 0x5553:uw
    (EVEN) sel (M1_NM, 16) OUT(0,0)<1> IN(0,0)<1;1,0> 0x7:ud
    (!EVEN) sel (M1_NM, 16) OUT(1,0)<1> IN(0,0)<1;1,0> 0x7:ud
    }"""
    data = RANDOM.integers(100, 1 << 30, (1, LANES), dtype=np.uint32)
    got = run(text, "=rw,rw", [data], (np.uint32, 2))
    assert got is not None
    even = (0x5553 >> np.arange(LANES)) & 1 == 1
    np.testing.assert_array_equal(got[0], np.where(even, data[0], 7))
    np.testing.assert_array_equal(got[1], np.where(even, 7, data[0]))


@pytest.mark.parametrize(
    "text",
    [
        "sin (M1_NM, 16) $0(0,0)<1> $1(0,0)<1;1,0>",
        "add.sat (M1_NM, 16) $0(0,0)<1> $1(0,0)<1;1,0> $1(0,0)<1;1,0>",
        "mov (M5_NM, 16) $0(0,0)<1> $1(0,0)<1;1,0>",
        "mov (M1_NM, 16) $0(0,0)<1> $1(0,0)<1;1,0> trailing(0,",
        "mov (M1_NM, 16) $0(0,0)<1> OTHER(0,0)<1;1,0>",
        "lsc_load_block2d.ugm (M1, 1)  $0:d16.1x16x16tn flat[$1+(0,0)]",
        "lsc_load.ugm (M1, 16) $0:d32 flat[$1]:a64",
    ],
)
def test_what_is_not_known_is_refused_by_name(text: str) -> None:
    """Catches an instruction that is guessed."""
    with pytest.raises(ValueError, match="it has no meaning for"):
        run(text, "=rw,rw", [np.zeros((1, LANES), np.float32)], (np.float32, 16))
