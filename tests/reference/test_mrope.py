# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.mrope, through torch's ops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference import oracle_layers as oracle
from tests.reference.memory import Slab, is_close
from tests.reference.ops import COMPILED, Ops, in_pytorch_only, refused
from tests.reference.rotations import MAX_POSITION, cache_of
from vllm_xpu_fp8_plugin.reference import mrope

pytestmark = pytest.mark.usefixtures("how")
PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)
FLOATS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@PROPERTY
@given(
    st.integers(1, 4),
    st.sampled_from([(2, 1), (1, None), (2, 2)]),
    st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any),
    st.booleans(),
    FLOATS,
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_multimodal_rotation(
    tokens: int,
    heads: tuple[int, int | None],
    sections: list[int],
    interleaved: bool,
    dtype: torch.dtype,
    is_neox: bool,
    flat: bool,
    seed: int,
) -> None:
    """Catches a pair that takes its angle from another section."""
    torch.manual_seed(seed)
    interleaved = interleaved and len(sections) == 3
    rot_dim = 2 * sum(sections)
    head_size = rot_dim + 2
    table = cache_of(rot_dim, dtype)
    positions = torch.randint(MAX_POSITION, (len(sections), tokens))
    of_pair = [s for s, count in enumerate(sections) for _ in range(count)]
    if interleaved:
        # Of vLLM's apply_interleaved_rope.
        of_pair = [0] * sum(sections)
        for axis in (1, 2):
            for pair in range(axis, min(3 * sections[axis], len(of_pair)), 3):
                of_pair[pair] = axis

    def cos_sin(token: int) -> Tensor:
        rows = [table[positions[s, token]].view(2, -1) for s in of_pair]
        return torch.stack([row[:, pair] for pair, row in enumerate(rows)], dim=1)

    slabs, befores = [], []
    for count in filter(None, heads):
        values = torch.randn(tokens, count, head_size).to(dtype)
        shape = (tokens, count * head_size) if flat else (tokens, count, head_size)
        slabs.append(Slab(shape, dtype, (3,) if flat else (1, 2), values.view(shape)))
        befores.append(values)
    key = slabs[1].view if len(slabs) > 1 else None
    arguments = (positions, slabs[0].view, key, head_size, table, is_neox, sections)
    if interleaved:
        # An argument since 0.1.16.
        mrope.multimodal_rotary_embedding(*arguments, mrope_interleaved=True)
    else:
        Ops("_xpu_C").multimodal_rotary_embedding(*arguments)
    for slab, before in zip(slabs, befores, strict=True):
        result = slab.view.reshape(before.shape)
        exact = oracle.rotated_heads(before, cos_sin, is_neox)
        size = before.double().square().sum(-1, keepdim=True).sqrt()
        # bfloat16 is computed in float32, and rounded once; since 0.1.16 if compiled.
        once = dtype == torch.bfloat16 and Ops.how != COMPILED
        eps = 2.0**-23 if once else torch.finfo(dtype).eps
        assert is_close(result, exact, error=1.5 * eps * size)
        assert slab.is_untouched_outside()


@in_pytorch_only
def test_no_tokens_are_rotated() -> None:
    """Catches a division by the number of tokens."""
    q, table = torch.empty(0, 8), cache_of(8, torch.float32)
    positions = torch.empty(1, 0, dtype=torch.int64)
    Ops("_xpu_C").multimodal_rotary_embedding(positions, q, q, 8, table, True, [4])


_T = cache_of(8, torch.float32)
_Q = torch.ones(2, 16)
_M = torch.zeros(3, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((_M, _Q, None, 8, _T, True, [2, 2]), "len.mrope_section."),
        ((_M.int(), _Q, None, 8, _T, True, [2, 1, 1]), "positions must be int64"),
        ((_M, _Q, None, 8, _T, True, [2, 2, 1]), "sum to rot_dim / 2"),
        ((torch.zeros(5, 2).long(), _Q, None, 8, _T, True, [1] * 5), "four sections"),
    ],
)
def test_what_the_multimodal_kernel_refuses_is_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    """Catches sections that do not cover the pairs."""
    with refused(message):
        Ops("_xpu_C").multimodal_rotary_embedding(*arguments)
