# SPDX-License-Identifier: Apache-2.0
"""An Intel GPU's instructions, each against a statement of what it does.

The statements follow documentation/visa of intel/intel-graphics-compiler. Element e of
lane l of an operand is element 16 * e + l of its registers.
"""

import numpy as np
import pytest
import torch

from tests.virtual_xpu.assembly import LANES, Array, run
from tests.virtual_xpu.shipped import assembly
from vllm_xpu_fp8_plugin import virtual_xpu

virtual_xpu.enable()

RANDOM = np.random.default_rng(7)


def to_bits(values: torch.Tensor) -> Array:
    return np.asarray(values.view(torch.int16).numpy().view(np.uint16))


def dpas_of(name: str, start: str = "DST") -> tuple[str, str]:
    """Return an assembly of dpas on two operands of a type, and on a result."""
    text = f"""{{
    .decl DST v_type=G type=f num_elts=128 alias=<$0,0>
    .decl LEFT v_type=G type=UD num_elts=64 alias=<$1,0>
    .decl RIGHT v_type=G type=UD num_elts=128 alias=<$2,0>
    dpas.{name}.{name}.8.8 (M1, 16) DST.0 {start}.0 RIGHT.0 LEFT(0,0)
    }}"""
    return text, "=rw,rw,rw,0"


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
    text, constraints = dpas_of("tf32")
    words = [t.numpy().view(np.uint32) for t in (left, right)]
    operands = [words[0].reshape(4, LANES), words[1], start.numpy()]
    got = run(text, constraints, operands, (np.float32, 8))
    kept = [(w & np.uint32(0xFFFFE000)).view(np.float32) for w in words]
    short = [torch.from_numpy(w).double() for w in kept]
    exact = start.double() + short[0] @ short[1]
    np.testing.assert_allclose(got, exact.numpy(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"), [("hf8", torch.float8_e4m3fn), ("bf8", torch.float8_e5m2)]
)
def test_dpas_of_fp8(name: str, kind: torch.dtype) -> None:
    """Catches four values of a word mixed up, and a code that is another number's."""
    # Every code of the two types that is a number, in A and in B.
    codes = torch.arange(256, dtype=torch.uint8).view(kind)
    numbers = codes[codes.float().isfinite()]
    order = torch.randperm(256, generator=torch.manual_seed(1)) % len(numbers)
    left = numbers[order].view(8, 32)
    order = torch.arange(512) % len(numbers)
    right = numbers[order].view(32, 16)
    start = torch.randn(8, 16)
    packed = right.view(torch.uint8).view(8, 4, 16).transpose(1, 2).contiguous()
    text, constraints = dpas_of(name)
    words = [
        left.view(torch.uint8).numpy().view(np.uint32).reshape(4, LANES),
        packed.numpy().view(np.uint32).reshape(8, LANES),
    ]
    got = run(text, constraints, [*words, start.numpy()], (np.float32, 8))
    assert got is not None
    exact = start.double() + left.double() @ right.double()
    scale = left.double().abs() @ right.double().abs()
    error = (torch.from_numpy(got.copy()).double() - exact).abs()
    assert (error <= 2.0**-22 * scale + 1e-6).all()


def test_dpas_of_no_start_starts_from_zero() -> None:
    """Catches a null operand that is refused, or taken for what the result held."""
    text, constraints = dpas_of("tf32", start="%null")
    ones = np.ones((8, LANES), np.float32).view(np.uint32)
    start = np.full((8, LANES), 5, np.float32)
    got = run(text, constraints, [ones[:4], ones, start], (np.float32, 8))
    np.testing.assert_array_equal(got, 8)


def test_a_nan_of_fp8_makes_its_row_one() -> None:
    """Catches e4m3's one NaN taken for 480."""
    left = np.zeros((8, 32), np.uint8)
    left[3, 17] = 0xFF
    text, constraints = dpas_of("hf8")
    words = left.view(np.uint32).reshape(4, LANES)
    ones = np.full((8, LANES), 0x38383838, np.uint32)
    start = np.zeros((8, LANES), np.float32)
    got = run(text, constraints, [words, ones, start], (np.float32, 8))
    assert got is not None
    np.testing.assert_array_equal(np.isnan(got).any(axis=1), np.arange(8) == 3)


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
