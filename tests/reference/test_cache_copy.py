# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.cache_copy, through torch's ops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.memory import poisoned
from tests.reference.ops import COMPILED, Ops, in_pytorch_only, refused, unchecked
from tests.reference.oracle_fp8 import is_nearest

ops = Ops("_C_cache_ops")
pytestmark = pytest.mark.usefixtures("how")

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("packed", [torch.uint8, torch.float8_e4m3fn])
def test_a_cache_is_converted_to_fp8_and_back(
    dtype: torch.dtype, packed: torch.dtype
) -> None:
    """Catches a wrong direction, scale or saturation."""
    values = (100 * torch.randn(5, 16)).to(dtype)
    values[0, 0] = 3e4
    stored = poisoned((5, 16), packed)
    ops.convert_fp8(stored, values, 0.3, "fp8")
    assert is_nearest(stored.view(torch.float8_e4m3fn), values.double() / 0.3)
    back = poisoned((5, 16), dtype)
    ops.convert_fp8(back, stored, 0.3, "fp8_e4m3")
    expected = stored.view(torch.float8_e4m3fn).double() * 0.3
    error = (back.double() - expected).abs()
    assert bool((error <= torch.finfo(dtype).eps * expected.abs()).all())


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=6),
    st.booleans(),
)
def test_blocks_are_swapped(pairs: list[tuple[int, int]], batch: bool) -> None:
    """Catches a wrong block or size, and any other write."""
    source = torch.randn(6, 4, 3)
    memory = poisoned((7, 4, 3), torch.float32)
    on_device = batch and Ops.how == COMPILED
    if on_device:
        # Addresses are not moved to a device with the tensors.
        source, memory = source.to("xpu"), memory.to("xpu")
    target = memory[1:-1]
    expected = memory.clone()
    for a, b in pairs:
        expected[1 + b] = source[a]
    size = 4 * 3 * 4
    if batch:
        arrays = (
            [source.data_ptr() + size * a for a, _ in pairs],
            [target.data_ptr() + size * b for _, b in pairs],
            [size] * len(pairs),
        )
        op = (torch.ops._C_cache_ops if on_device else ops).swap_blocks_batch
        op(*(torch.tensor(x, dtype=torch.uint64) for x in arrays))
    else:
        mapping = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
        ops.swap_blocks(source, target, size, mapping)
    assert torch.equal(memory.view(torch.uint8), expected.view(torch.uint8))


_HALVES = torch.zeros(24, 8).half()
_BYTES = torch.zeros(24, 8, dtype=torch.uint8)
_PAIRS = torch.zeros(1, 2, dtype=torch.int64)


@in_pytorch_only
def test_what_the_kernel_converts_wrong_is_not_hidden() -> None:
    """Catches a right answer where a real XPU takes the bytes for integers."""
    with pytest.raises(NotImplementedError, match="integers"):
        ops.convert_fp8(_BYTES, _HALVES, 1.0, "auto")


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("convert_fp8", (_BYTES, _HALVES, 1.0, "fp8_e5m2"), "unsupported data type"),
        unchecked("convert_fp8", (_BYTES[:3], _HALVES, 1.0, "fp8"), "one shape"),
        unchecked("convert_fp8", (_BYTES.t(), _HALVES.t(), 1.0, "fp8"), "contiguous"),
        unchecked("convert_fp8", (_HALVES, _HALVES, 1.0, "fp8"), "uint8"),
        ("convert_fp8", (_BYTES, _BYTES, 1.0, "fp8"), "unsupported input type"),
        ("swap_blocks", (_HALVES, _HALVES, 16, _PAIRS.int()), "int64"),
        ("swap_blocks", (_HALVES, _HALVES, 16, _PAIRS[0]), "int64"),
        ("swap_blocks", (_HALVES, _HALVES, 0, _PAIRS), "positive"),
        unchecked(
            "swap_blocks", (_HALVES, _HALVES, 16, _PAIRS + 24), "no block 24 of 24"
        ),
        unchecked(
            "swap_blocks", (_HALVES, _HALVES, 16, _PAIRS - 1), "no block -1 of 24"
        ),
        ("swap_blocks_batch", (_PAIRS[0], _PAIRS[0], _PAIRS[0]), "uint64"),
        (
            "swap_blocks_batch",
            tuple(torch.zeros(n, dtype=torch.uint64) for n in (1, 2, 1)),
            "as many as",
        ),
    ],
)
def test_what_the_kernels_refuse_is_refused(
    op: str, arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        getattr(ops, op)(*arguments)
