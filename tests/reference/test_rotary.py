# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.rotary, through torch's ops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference import oracle_layers as oracle
from tests.reference.memory import Slab, is_close
from tests.reference.ops import (
    COMPILED,
    Ops,
    in_pytorch_only,
    on_xpu,
    refused,
    unchecked,
)
from tests.reference.rotations import MAX_POSITION, cache_of

pytestmark = pytest.mark.usefixtures("how")
PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)
FLOATS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
# Head size and how much of it is rotated.
HEADS = st.sampled_from([(2, 2), (8, 8), (8, 4), (16, 12), (12, 12)])


def is_rotated(
    result: Tensor, before: Tensor, table: Tensor, positions: Tensor, is_neox: bool
) -> bool:
    """Whether [num_tokens, heads, head_size] is `before` rotated, but for roundings."""
    at = positions.flatten().tolist()
    exact = oracle.rotated_heads(before, lambda t: table[at[t]].chunk(2), is_neox)
    # Each of two products is rounded, then their sum: against the pair's length.
    size = before.double().square().sum(-1, keepdim=True).sqrt()
    error = 1.5 * torch.finfo(result.dtype).eps * size
    rot_dim = table.shape[1]
    unchanged = torch.equal(result[..., rot_dim:], before[..., rot_dim:])
    return unchanged and is_close(result, exact, error=error)


@PROPERTY
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.booleans(),
    st.sampled_from([(1, 1), (4, 2), (3, 3), (2, None)]),
    HEADS,
    FLOATS,
    st.booleans(),
    st.sampled_from(["flat", "heads", "gaps"]),
    st.integers(0, 99),
)
def test_rotary_embedding(
    sizes: tuple[int, int],
    is_batch: bool,
    heads: tuple[int, int | None],
    head: tuple[int, int],
    dtype: torch.dtype,
    is_neox: bool,
    layout: str,
    seed: int,
) -> None:
    """Catches a wrong pair, sign, position or stride, and values turned beyond."""
    torch.manual_seed(seed)
    head_size, rot_dim = head
    tokens = sizes if is_batch else sizes[:1]
    positions = torch.randint(MAX_POSITION, tokens)
    table = cache_of(rot_dim, dtype)
    slabs, befores = [], []
    for count in heads:
        if count is None:
            continue
        values = torch.randn(*tokens, count, head_size).to(dtype)
        if layout == "flat":
            # A part of a projection's output: other heads lie behind each token.
            slab = Slab((*tokens, count * head_size), dtype, (6,), values.flatten(-2))
        else:
            gaps = (0, 5, 0) if layout == "heads" else (2, 4, 0)
            slab = Slab((*tokens, count, head_size), dtype, gaps, values)
        slabs.append(slab)
        befores.append(values.view(-1, count, head_size))
    key = slabs[1].view if len(slabs) > 1 else None
    Ops("_C").rotary_embedding(positions, slabs[0].view, key, head_size, table, is_neox)
    for slab, before in zip(slabs, befores, strict=True):
        result = slab.view.reshape(before.shape)
        assert is_rotated(result, before, table, positions, is_neox)
        assert slab.is_untouched_outside()


@pytest.mark.parametrize("how", [COMPILED], indirect=True)
@PROPERTY
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.integers(1, 3),
    HEADS,
    FLOATS,
    st.booleans(),
    st.integers(0, 99),
)
def test_rotation_through_the_kernel_package(
    lead: list[int],
    heads: int,
    head: tuple[int, int],
    dtype: torch.dtype,
    is_neox: bool,
    seed: int,
) -> None:
    """Catches cosines of the wrong token, and values that are not passed on."""
    from vllm_xpu_kernels.rotary import apply_rotary_emb

    torch.manual_seed(seed)
    head_size, rot_dim = head
    x = torch.randn(*lead, heads, head_size).to(dtype)
    # One sequence's, for each sequence of the batch.
    table = cache_of(rot_dim, dtype)[: lead[-1]]
    cos, sin = table.chunk(2, dim=-1)
    result = on_xpu(apply_rotary_emb, x, cos, sin, is_neox)
    result = result.view(-1, heads, head_size)
    before = x.view(-1, heads, head_size)
    positions = torch.arange(len(before)) % lead[-1]
    assert is_rotated(result, before, table, positions, is_neox)


def test_rotation_writes_its_output_only() -> None:
    """Catches an input that is rotated in place, and writes between heads."""
    torch.manual_seed(0)
    values = torch.randn(3, 2, 8)
    source = Slab((3, 2, 8), values.dtype, (2, 1), values)
    out = Slab((3, 2, 8), values.dtype, (2, 1))
    table = cache_of(4, values.dtype)[:3]
    Ops("_xpu_C").apply_rotary_emb(
        out.view, source.view, table[:, :2], table[:, 2:], True
    )
    assert is_rotated(out.view, values, table, torch.arange(3), True)
    assert torch.equal(source.view, values) and out.is_untouched_outside()


@in_pytorch_only
def test_no_tokens_are_rotated() -> None:
    """Catches a division by the number of tokens."""
    positions = torch.empty(0, dtype=torch.int64)
    q, table = torch.empty(0, 8), cache_of(8, torch.float32)
    Ops("_C").rotary_embedding(positions, q, q, 8, table, True)


_T = cache_of(8, torch.float32)
_P, _Q = torch.tensor([0, 49]), torch.ones(2, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((_P.int(), _Q, None, 8, _T), "positions must be int64"),
        ((_P.view(1, 1, 2), _Q, None, 8, _T), "num_tokens. or .batch, length"),
        ((_P, _Q[:1], None, 8, _T), "same tokens"),
        ((_P, _Q, torch.ones(3, 8), 8, _T), "same tokens"),
        ((_P, _Q, None, 7, _T), "no multiple of the head size"),
        ((_P, _Q, torch.ones(2, 24), 8, _T), "do not divide"),
        ((_P, _Q, torch.ones(2, 8).half(), 8, _T), "key must be float32"),
        ((_P, _Q, None, 8, _T.half()), "cos_sin_cache must be float32"),
        unchecked((_P, _Q, None, 8, _T[:49]), "must be in .0, 49."),
        unchecked((_P - 1, _Q, None, 8, _T), "must be in .0, 50."),
        unchecked((_P, _Q, None, 8, cache_of(16, torch.float32)[:, :8]), "contiguous"),
        # A key whose heads lie otherwise than the query's.
        unchecked(
            (_P, _Q, torch.ones(2, 2, 9)[..., :8], 8, _T), "key must be .2, 2, 8."
        ),
        unchecked(
            (_P, torch.ones(2, 32)[:, ::2], None, 8, _T), "query must be .2, 2, 8."
        ),
    ],
)
def test_what_the_rotary_kernel_cannot_take_is_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    """Catches wrong reads of the kernel that PyTorch would hide."""
    with refused(message):
        Ops("_C").rotary_embedding(*arguments, True)


_X, _C = torch.ones(2, 2, 8), torch.ones(2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((_X[0], _X[0], _C, _C), "num_tokens, num_heads, head_size"),
        ((_X, _X, _C[:1], _C[:1]), "cos must be .2, rot_dim / 2"),
        ((_X, _X, torch.ones(2, 5), torch.ones(2, 5)), "must be <= head_size"),
        ((_X, torch.ones(2, 8, 2).mT, _C, _C), "without gaps in a head"),
        unchecked(
            (_X, torch.ones(2, 2, 9)[..., :8], _C, _C), "output must be of shape"
        ),
        ((_X, _X, _C, _C.half()), "sin must be float32"),
        unchecked((_X, _X, _C, torch.ones(2, 5)[:, :4]), "sin must be of shape"),
    ],
)
def test_what_the_rotation_refuses_is_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    """Catches wrong reads of the kernel that PyTorch would hide."""
    with refused(message):
        Ops("_xpu_C").apply_rotary_emb(*arguments, True)
