# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.qk_norm, through torch's op."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import oracle_layers as oracle
from tests.reference.memory import Slab, is_close
from tests.reference.ops import Ops, refused, unchecked

ops = Ops("_C")
pytestmark = pytest.mark.usefixtures("how")

HALF = [torch.float16, torch.bfloat16]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.sampled_from([(1, 1, 1), (4, 2, 2), (2, 1, 0)]),
    st.sampled_from([(64, 64), (64, 32), (128, 128), (256, 64)]),
    st.sampled_from(HALF),
    st.sampled_from([torch.float32, *HALF]),
    st.booleans(),
    st.integers(0, 99),
)
def test_query_and_key_are_normed_then_rotated(
    tokens: int,
    heads: tuple[int, int, int],
    head: tuple[int, int],
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
    is_neox: bool,
    seed: int,
) -> None:
    """Catches a weight of the wrong part, a rounding between the steps, a changed V."""
    torch.manual_seed(seed)
    head_dim, rot_dim = head
    total = sum(heads)
    before = torch.randn(tokens, total, head_dim).to(dtype)
    qkv = Slab((tokens, total * head_dim), dtype, values=before.flatten(1))
    q_weight, k_weight = torch.randn(2, head_dim).to(dtype)
    table = torch.rand(40, rot_dim).to(cache_dtype) * 2 - 1
    positions = torch.randint(40, (tokens,))
    ops.fused_qk_norm_rope(
        qkv.view,
        *heads,
        head_dim,
        1e-5,
        q_weight,
        k_weight,
        table,
        is_neox,
        positions,
    )
    result = qkv.view.view(before.shape)
    for start, stop, weight in (
        (0, heads[0], q_weight),
        (heads[0], heads[0] + heads[1], k_weight),
    ):
        normed = oracle.rms_norm(before[:, start:stop], weight, 1e-5)
        exact = oracle.rotated_heads(
            normed, lambda t: table[positions[t]].chunk(2), is_neox
        )
        # The difference of two products in float32.
        error = 2.0**-20 * normed.abs().max()
        assert is_close(result[:, start:stop], exact, error=error)
    values = slice(heads[0] + heads[1], None)
    assert torch.equal(result[:, values], before[:, values])
    assert qkv.is_untouched_outside()


_GOOD: dict[str, Any] = {
    "qkv": torch.ones(2, 3 * 64).half(),
    "num_heads_q": 1,
    "num_heads_k": 1,
    "num_heads_v": 1,
    "head_dim": 64,
    "eps": 1e-6,
    "q_weight": torch.ones(64).half(),
    "k_weight": torch.ones(64).half(),
    "cos_sin_cache": torch.ones(8, 64),
    "is_neox": True,
    "position_ids": torch.tensor([0, 7]),
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qkv": torch.ones(2, 192)}, "float16 or bfloat16"),
        ({"qkv": torch.ones(2, 200).half()[:, :192]}, "contiguous"),
        ({"qkv": torch.ones(2, 128).half()}, "qkv must be .2, 192."),
        ({"qkv": torch.ones(3, 192).half()}, "qkv must be .2, 192."),
        ({"q_weight": torch.ones(64)}, "q_weight must be float16"),
        ({"k_weight": torch.ones(32).half()}, "k_weight must be .64."),
        ({"head_dim": 96}, "head_dim must be one of"),
        ({"cos_sin_cache": torch.ones(8, 66)}, "at most 64"),
        ({"cos_sin_cache": torch.ones(8, 63)}, "must be even"),
        unchecked({"cos_sin_cache": torch.ones(8, 48)}, "wrong pairs"),
        ({"cos_sin_cache": torch.ones(8, 65)[:, :64]}, "contiguous"),
        unchecked({"position_ids": torch.tensor([0, 8])}, "must be in .0, 8."),
        ({"position_ids": torch.tensor([0, 7]).int()}, "must be int64"),
        ({"position_ids": torch.tensor([[0], [7]])}, "must be .num_tokens."),
    ],
)
def test_what_the_kernel_refuses_is_refused(
    changed: dict[str, Any], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        ops.fused_qk_norm_rope(**{**_GOOD, **changed})
    ops.fused_qk_norm_rope(**{**_GOOD, "qkv": _GOOD["qkv"].clone()})
