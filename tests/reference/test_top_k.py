# SPDX-License-Identifier: Apache-2.0
"""The largest of each row, through torch's ops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.memory import Slab
from tests.reference.ops import Ops, refused

pytestmark = pytest.mark.usefixtures("how")

PROPERTY = settings(max_examples=120, deadline=None, derandomize=True)

_LOGITS = torch.zeros(2, 4)
_I, _INDICES = torch.ones(2, dtype=torch.int32), torch.ones(2, 3, dtype=torch.int32)


@PROPERTY
@given(
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from(["packed", "rows", "columns"]),
    st.integers(0, 99),
)
def test_top_k_of_a_range(
    rows: int, columns: int, top_k: int, ties: bool, layout: str, seed: int
) -> None:
    """Catches values from outside of the range, and indices not counted from it."""
    torch.manual_seed(seed)
    logits = torch.randn(rows, columns)
    if ties:
        logits = logits.round()
    if layout == "columns":
        logits = torch.stack([logits, logits + 99], dim=-1)[..., 0]
    elif layout == "rows":
        logits = torch.cat([logits, logits + 99], dim=-1)[:, :columns]
    starts = torch.randint(columns, (rows,), dtype=torch.int32)
    ends = (starts + torch.randint(columns, (rows,), dtype=torch.int32)).clamp(
        max=columns
    )
    slab = Slab((rows, top_k), torch.int32)
    strides = logits.stride()
    Ops("_C").top_k_per_row_prefill(
        logits, starts, ends, slab.view, rows, *strides, top_k
    )
    for row in range(rows):
        values = logits[row].tolist()[starts[row] : ends[row]]
        assert is_top_k(slab.view[row].tolist(), values)
    assert slab.is_untouched_outside()


@PROPERTY
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(3, 40),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_top_k_of_a_sequences_last_tokens(
    sequences: int, next_n: int, columns: int, top_k: int, seed: int
) -> None:
    """Catches a token that sees the ones after it."""
    torch.manual_seed(seed)
    rows = sequences * next_n
    logits = torch.randn(rows, columns)
    lengths = torch.randint(next_n, columns + 1, (sequences,), dtype=torch.int32)
    slab = Slab((rows, top_k), torch.int32)
    Ops("_C").top_k_per_row_decode(
        logits, next_n, lengths, slab.view, rows, *logits.stride(), top_k
    )
    for row in range(rows):
        seen = int(lengths[row // next_n]) - (next_n - 1 - row % next_n)
        assert is_top_k(slab.view[row].tolist(), logits[row].tolist()[:seen])
    assert slab.is_untouched_outside()


def is_top_k(indices: list[int], values: list[float]) -> bool:
    """Whether `indices` are of the largest values, each once, and then -1."""
    found = [i for i in indices if i >= 0]
    largest = sorted(values, reverse=True)[: len(indices)]
    return (
        len(set(found)) == len(found) == min(len(indices), len(values))
        and indices[len(found) :] == [-1] * (len(indices) - len(found))
        and sorted((values[i] for i in found), reverse=True) == largest
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("prefill", (_LOGITS, _I, _I, _INDICES, 3, 4, 1, 3), "3 rows"),
        ("prefill", (_LOGITS, _I, _I, _INDICES, 2, 1, 4, 3), "strides"),
        ("prefill", (_LOGITS, _I[:1], _I, _INDICES, 2, 4, 1, 3), "rowStarts"),
        ("prefill", (_LOGITS, _I, _I.long(), _INDICES, 2, 4, 1, 3), "rowEnds"),
        ("prefill", (_LOGITS, _I, _I, _INDICES, 2, 4, 1, 2), "indices must be .2, 2"),
        ("prefill", (_LOGITS.half(), _I, _I, _INDICES, 2, 4, 1, 3), "logits must be"),
        ("decode", (_LOGITS, 2, _I, _INDICES, 2, 4, 1, 3), "seq_lens must be .1"),
        ("decode", (_LOGITS, 1, _I, _INDICES.long(), 2, 4, 1, 3), "indices must be"),
    ],
)
def test_what_top_k_refuses_is_refused(
    name: str, arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        getattr(Ops("_C"), f"top_k_per_row_{name}")(*arguments)
