# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.mla_cache, through torch's ops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.memory import is_poison, poisoned
from tests.reference.ops import Ops, in_pytorch_only, refused, unchecked
from tests.reference.oracle_cache import FLOATS, FP8, KINDS, is_stored, slot_mappings

ops = Ops("_C_cache_ops")
pytestmark = pytest.mark.usefixtures("how")

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


@PROPERTY
@given(st.data(), FLOATS, KINDS, st.integers(1, 3), st.sampled_from([1, 4]))
def test_latents_go_to_their_slots(
    data: st.DataObject, dtype: torch.dtype, kind: str, blocks: int, page: int
) -> None:
    """Catches a wrong slot, scale or order of parts, and any other write."""
    slots = data.draw(slot_mappings(blocks * page))
    kv_c = torch.randn(len(slots) + 1, 12).to(dtype)
    k_pe = torch.randn(len(slots) + 1, 6).to(dtype)[:, :4]
    memory = poisoned((blocks + 1, page, 16), torch.uint8 if FP8[kind] else dtype)
    cache = memory[1:]
    scale = torch.tensor(0.3)
    ops.concat_and_cache_mla(kv_c, k_pe, cache, slots, kind, scale)
    for token, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        entry = torch.cat([kv_c[token], k_pe[token]])
        stored = cache[slot // page, slot % page]
        assert is_stored(stored, entry, kind, scale.double().item())
        cache[slot // page, slot % page] = poisoned((16,), cache.dtype)
    assert is_poison(memory), "written outside of the slots"


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
    st.sampled_from([1, 4]),
    FLOATS,
    KINDS,
    st.booleans(),
    st.booleans(),
)
def test_sequences_are_gathered_from_their_pages(
    sequences: list[tuple[int, int]],
    page: int,
    dtype: torch.dtype,
    kind: str,
    with_starts: bool,
    whole_pages: bool,
) -> None:
    """Catches a wrong page, start, scale or type, and any other write."""
    torch.manual_seed(len(sequences))
    fp8 = FP8[kind]
    lengths = [length for length, _ in sequences]
    starts = [start if with_starts else 0 for _, start in sequences]
    table = torch.randperm(24 * len(sequences), dtype=torch.int32)
    table = table.view(len(sequences), 24)
    cache = torch.randn(table.numel(), page, 8).to(fp8 or dtype)
    stored = cache.view(torch.uint8) if fp8 else cache
    cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    seq_starts = torch.tensor(starts, dtype=torch.int32) if with_starts else None
    scale, total = torch.tensor([1.7]), sum(lengths)
    of_token = [i for i, length in enumerate(lengths) for _ in range(length)]
    result = poisoned((total + 2, 8), cache.dtype if whole_pages else dtype)
    if whole_pages:
        # Entries of several dimensions, copied as they are.
        entries = (t.unflatten(-1, (2, 4)) for t in (cache, result))
        ops.gather_cache(*entries, table, cu, len(sequences), seq_starts)
        starts = [start // page * page for start in starts]
    else:
        # Rows after the last sequence belong to none.
        to_seq = torch.tensor([*of_token, len(lengths) - 1], dtype=torch.int32)
        ops.gather_and_maybe_dequant_cache(
            stored, result, table, cu, to_seq, total + 1, kind, scale, seq_starts
        )
    for token, i in enumerate(of_token):
        position = starts[i] + token - int(cu[i])
        entry = cache[int(table[i, position // page])].double()[position % page]
        scaled = fp8 is not None and not whole_pages
        expected = entry * scale.double() if scaled else entry
        eps = torch.finfo(dtype).eps if scaled else 0
        error = (result[token].double() - expected).abs()
        assert bool((error <= eps * expected.abs()).all())
    assert is_poison(result[total:]), "written outside of the sequences"


_CACHE = torch.zeros(3, 4, 8, dtype=torch.float16)
_NEW, _SLOTS, _ONE = torch.zeros(2, 4).half(), torch.tensor([0, 5]), torch.ones(1)
_LENGTHS = torch.zeros(2, dtype=torch.int32)
_TABLE = _LENGTHS[None]


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (
            "concat_and_cache_mla",
            (_NEW, _NEW[:, :3], _CACHE, _SLOTS, "auto", _ONE),
            "do not fit",
        ),
        unchecked(
            "concat_and_cache_mla",
            (_NEW, _NEW.float(), _CACHE, _SLOTS, "auto", _ONE),
            "do not fit",
        ),
        (
            "concat_and_cache_mla",
            (_NEW, _NEW, _CACHE, _SLOTS, "fp8_ds_mla", _ONE),
            "unsupported data type of kv cache: fp8_ds_mla",
        ),
        ("gather_cache", (_CACHE, _CACHE[0], _TABLE.long(), _LENGTHS, 1), "int32"),
        ("gather_cache", (_CACHE, _CACHE[0], _TABLE, _LENGTHS.long(), 1), "int32"),
        ("gather_cache", (_CACHE, _CACHE[0].byte(), _TABLE, _LENGTHS, 1), "dst must"),
        (
            "gather_cache",
            (_CACHE.double(), _CACHE[0].double(), _TABLE, _LENGTHS, 1),
            "data type width: 64",
        ),
        (
            "gather_and_maybe_dequant_cache",
            (_CACHE, _CACHE[0], _TABLE, _LENGTHS, _SLOTS, 0, "auto", _ONE, None),
            "int32",
        ),
        unchecked(
            "gather_and_maybe_dequant_cache",
            (_CACHE, _CACHE[0], _TABLE, _LENGTHS, _LENGTHS, 0, "fp8", _ONE, None),
            "must be of uint8",
        ),
    ],
)
def test_what_the_kernels_refuse_is_refused(
    op: str, arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    if op == "gather_cache":
        arguments = (*arguments, None)
    with refused(message):
        getattr(ops, op)(*arguments)


@in_pytorch_only
@pytest.mark.parametrize("page", [-1, 2])
def test_a_page_that_does_not_exist_is_refused(page: int) -> None:
    """Catches -1 taken for the last page: the kernels read what lies there."""
    cache, dst = torch.ones(2, 4, 8), torch.empty(8, 8)
    table = torch.tensor([[0, page]], dtype=torch.int32)
    for length in (4, 8):
        lengths = torch.tensor([0, length], dtype=torch.int32)
        tokens = torch.zeros(length, dtype=torch.int32)
        gathers = (
            lambda n=lengths: ops.gather_cache(cache, dst, table, n, 1, None),
            lambda n=lengths, t=tokens: ops.gather_and_maybe_dequant_cache(
                cache, dst, table, n, t, len(t), "auto", _ONE, None
            ),
        )
        for gather in gathers:
            if length == 4:
                gather()  # The page is not read.
                continue
            with pytest.raises(RuntimeError, match=f"page {page}, there are 2"):
                gather()
