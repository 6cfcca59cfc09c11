# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""FLASH_ATTN_DIFFKV hands no descale of a query that is not quantised."""

from types import SimpleNamespace

import pytest
import torch

from vllm.platforms import current_platform
from vllm.v1.attention.backends import flash_attn_diffkv

if not current_platform.is_xpu():
    pytest.skip("XPU only", allow_module_level=True)

NUM_HEADS, HEAD_SIZE, LENGTH, PAGE = 2, 64, 40, 64


@pytest.fixture(autouse=True)
def on_xpu():
    with torch.device("xpu"):
        yield


def test_decode_has_no_query_descale(monkeypatch):
    """The kernels refuse one, or take it and compute without it."""
    kernel, calls = flash_attn_diffkv.flash_attn_varlen_func, []

    def recorded(**kwargs):
        calls.append(kwargs)
        # As one tensor each: the XPU kernels want pages without gaps.
        contiguous = {name: kwargs[name].contiguous() for name in ("k", "v")}
        return kernel(**kwargs | contiguous)

    monkeypatch.setattr(flash_attn_diffkv, "flash_attn_varlen_func", recorded)
    monkeypatch.setattr(
        flash_attn_diffkv.FlashAttentionDiffKVBackend,
        "head_size_v",
        HEAD_SIZE,
        raising=False,
    )
    impl = flash_attn_diffkv.FlashAttentionDiffKVImpl(
        NUM_HEADS,
        HEAD_SIZE,
        HEAD_SIZE**-0.5,
        NUM_HEADS,
        alibi_slopes=None,
        sliding_window=None,
        kv_cache_dtype="auto",
    )
    torch.manual_seed(0)
    query = torch.randn(1, NUM_HEADS, HEAD_SIZE).bfloat16()
    cache = torch.randn(1, NUM_HEADS, PAGE, 2 * HEAD_SIZE).bfloat16()
    output = torch.full_like(query, torch.nan)
    metadata = SimpleNamespace(
        num_actual_tokens=1,
        query_start_loc=torch.tensor([0, 1], dtype=torch.int32),
        seq_lens=torch.tensor([LENGTH], dtype=torch.int32),
        max_query_len=1,
        max_seq_len=LENGTH,
        block_table=torch.zeros(1, 1, dtype=torch.int32),
        scheduler_metadata=None,
        causal=True,
        max_num_splits=0,
        use_cascade=False,
    )
    one = torch.ones(1)
    layer = SimpleNamespace(_q_scale=one, _k_scale=one, _v_scale=one)
    impl.forward(layer, query, query, query, cache, metadata, output)

    assert not impl.supports_quant_query_input
    assert calls[0]["q_descale"] is None
    keys, values = cache[0, :, :LENGTH].cpu().float().split(HEAD_SIZE, dim=-1)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.cpu().float().transpose(0, 1), keys, values
    ).transpose(0, 1)
    torch.testing.assert_close(output.cpu().float(), expected, atol=2e-2, rtol=2e-2)
