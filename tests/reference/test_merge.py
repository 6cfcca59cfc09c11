# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.merge, through torch's op."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import oracle_layers as oracle
from tests.reference.memory import Slab, is_close
from tests.reference.ops import COMPILED, Ops, refused, unchecked
from tests.reference.oracle_fp8 import is_nearest

ops = Ops("_C")
pytestmark = pytest.mark.usefixtures("how")

FLOATS = [torch.float32, torch.float16, torch.bfloat16]
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
INF = math.inf


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([8, 24]),
    st.sampled_from(FLOATS),
    st.sampled_from([None, None, *FP8]),
    st.sampled_from([0, 8]),
    st.booleans(),
    st.sampled_from([None, 0, 1, "all"]),
    st.integers(0, 99),
)
def test_merged_attention(
    tokens: int,
    heads: int,
    head_size: int,
    dtype: torch.dtype,
    fp8: torch.dtype | None,
    gap: int,
    with_lse: bool,
    with_context: int | str | None,
    seed: int,
) -> None:
    """Catches swapped parts or dimensions, an infinity that spreads, stray writes."""
    torch.manual_seed(seed)
    shape = (tokens, heads, head_size)
    prefix, suffix = (
        Slab(shape, dtype, (gap,), torch.randn(shape).to(dtype)).view for _ in range(2)
    )
    # Apart enough that a part's share is 0, and some parts empty.
    prefix_lse, suffix_lse = 30 * torch.randn(2, heads, tokens)
    for lse, value in ((prefix_lse, -INF), (suffix_lse, -INF), (prefix_lse, INF)):
        lse[torch.rand(heads, tokens) < 0.2] = value
    merged = tokens if with_context in (None, "all") else int(with_context)
    output = Slab(shape, fp8 or dtype, (gap,))
    output_lse = Slab((heads, tokens), torch.float32) if with_lse else None
    scale = torch.tensor([0.01]) if fp8 else None
    ops.merge_attn_states(
        output.view,
        output_lse.view if output_lse else None,
        prefix,
        prefix_lse,
        suffix,
        suffix_lse,
        tokens if with_context == "all" else with_context,
        scale,
    )
    exact, lse = suffix.double(), suffix_lse.double()
    for token in range(merged):
        for head in range(heads):
            parts = [
                (part[token, head], float(part_lse[head, token]))
                for part, part_lse in ((prefix, prefix_lse), (suffix, suffix_lse))
            ]
            filled = [(p, size) for p, size in parts if not math.isinf(size)]
            exact[token, head], lse[head, token] = (
                oracle.merged(filled) if filled else (parts[0][0].double(), -INF)
            )
    # A difference of 60 in the exponent costs its share of float32's precision, and the
    # CPU's native exponential has 14 bits.
    precision = 2.0**-13 if Ops.how == COMPILED else 2.0**-17
    error = precision * (prefix.double().abs() + suffix.double().abs())
    if scale is None:
        assert is_close(output.view, exact, error=error)
    else:
        assert is_nearest(output.view, exact / scale.double(), slack=2 * precision)
    assert output.is_untouched_outside()
    if output_lse:
        assert is_close(output_lse.view, lse, error=precision)
        assert output_lse.is_untouched_outside()


def test_an_empty_part_that_is_not_a_number_is_not_silenced() -> None:
    """Catches a part with a share of 0 that is left out: the kernel multiplies by 0."""
    suffix = torch.ones(1, 1, 8)
    prefix = torch.full_like(suffix, torch.nan)
    output, lse = torch.empty_like(suffix), torch.zeros(1, 1)
    ops.merge_attn_states(output, None, prefix, lse - INF, suffix, lse, None, None)
    assert output.isnan().all()


_O, _L = torch.ones(2, 3, 8), torch.ones(3, 2)
_GAPS = torch.ones(2, 3, 9)[..., :8]
_APART = torch.ones(3, 3, 8)[::2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((_O.int(), None, _O.int(), _L, _O.int(), _L), "prefix must be float32"),
        unchecked((_O, None, _O, _L, _O.half(), _L), "suffix_output must be float32"),
        ((_O.half(), None, _O, _L, _O, _L), "output must be float32"),
        unchecked((_O, None, _O, _L.double(), _O, _L), "prefix_lse must be float32"),
        unchecked((_O, None, _O, _L.t(), _O, _L), "contiguous"),
        unchecked((_O, None, _O, torch.ones(2, 3), _O, _L), "num_heads, num_tokens"),
        unchecked((_O, None, _O[:1], _L, _O, _L), "prefix_output must be"),
        ((_O[..., :6], None, _O, _L, _O, _L), "multiple of 4"),
        unchecked((_O, None, _GAPS, _L, _O, _L), "strides of prefix_output"),
        unchecked((_O, None, _O, _L, _APART, _L), "nothing between tokens"),
        ((_O, None, _O, _L, _O, _L, 3), "must be <= 2"),
        ((_O, None, _O, _L, _O, _L, -1), "must be <= 2"),
        ((_O, None, _O, _L, _O, _L, None, torch.ones(1)), "must be FP8"),
    ],
)
def test_what_the_kernel_cannot_take_is_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        ops.merge_attn_states(*arguments)
