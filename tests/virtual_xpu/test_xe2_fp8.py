# SPDX-License-Identifier: Apache-2.0
"""An Intel GPU's conversions of FP8, each against torch's.

vISA has no FP8: e5m2 is written UB (FCVT.md), e4m3 B (as sycl-tla writes it).
"""

import numpy as np
import pytest
import torch

from tests.virtual_xpu.assembly import LANES, run
from tests.virtual_xpu.shipped import assembly
from vllm_xpu_fp8_plugin import virtual_xpu

virtual_xpu.enable()


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


@pytest.mark.parametrize(
    ("name", "kind"), [("B", torch.float8_e4m3fn), ("UB", torch.float8_e5m2)]
)
def test_fp8_to_half(name: str, kind: torch.dtype) -> None:
    """Catches one type of FP8 taken for the other, which vISA writes B and UB."""
    text = f"""{{
    .decl IN v_type=G type={name} num_elts=32 alias=<$1,0>
    .decl OUT v_type=G type=HF num_elts=32 alias=<$0,0>
    fcvt (M1_NM, 32) OUT(0,0)<1> IN(0,0)<1;1,0>
    }}"""
    codes = np.arange(256, dtype=np.uint8)
    for some in codes.reshape(8, 2, LANES):
        got = run(text, "=rw,rw", [some], (np.uint16, 2))
        assert got is not None
        halves = torch.from_numpy(got.view(np.int16).copy()).view(torch.float16)
        expected = torch.from_numpy(some.copy()).view(kind).half()
        torch.testing.assert_close(halves, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "kind"), [("B", torch.float8_e4m3fn), ("UB", torch.float8_e5m2)]
)
def test_half_to_fp8_rounds_to_even(name: str, kind: torch.dtype) -> None:
    """Catches ties that go up, a subnormal that is lost, and a number that wraps."""
    text = f"""{{
    .decl IN v_type=G type=HF num_elts=32 alias=<$1,0>
    .decl OUT v_type=G type={name} num_elts=32 alias=<$0,0>
    fcvt (M1_NM, 32) OUT(0,0)<1> IN(0,0)<1;1,0>
    }}"""
    codes = torch.arange(128, dtype=torch.uint8).view(kind).double()
    codes = codes[codes.isfinite()]
    # Each number, each middle of two, and the halves next to it.
    middles = ((codes[1:] + codes[:-1]) / 2).half()
    bits = middles.view(torch.int16)
    near = torch.cat([bits, bits - 1, bits + 1]).view(torch.float16)
    values = torch.cat([codes.half(), near])
    values = torch.cat([values, -values, torch.zeros(-2 * len(values) % 32).half()])
    for some in values.view(-1, 2, LANES):
        source = some.view(torch.int16).numpy().view(np.uint16)
        got = run(text, "=rw,rw", [source], (np.uint8, 2))
        assert got is not None
        found = torch.from_numpy(got.copy()).view(kind).double()
        torch.testing.assert_close(found, some.to(kind).double(), rtol=0, atol=0)
    beyond = np.array([465, 61440, np.inf, np.nan] * 8, np.float16).view(np.uint16)
    got = run(text, "=rw,rw", [beyond.reshape(2, LANES)], (np.uint8, 2))
    assert got is not None
    found = torch.from_numpy(got.copy()).view(kind).float().numpy().ravel()[:4]
    none = np.array([np.nan] * 4)
    infinite = np.array([448, np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(found, none if name == "B" else infinite)
