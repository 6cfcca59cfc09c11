# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""Encoder attention on an XPU hands the kernel no query descale (#39676)."""

from types import SimpleNamespace

import pytest
import torch

from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends import flash_attn

if not current_platform.is_xpu():
    pytest.skip("XPU only", allow_module_level=True)

NUM_HEADS, HEAD_SIZE, LENGTHS = 4, 64, [5, 1, 33]


@pytest.fixture(autouse=True)
def on_xpu():
    with torch.device("xpu"):
        yield


@pytest.mark.parametrize(
    "attn_type", [AttentionType.ENCODER_ONLY, AttentionType.ENCODER]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_encoder_attention(attn_type, dtype, monkeypatch):
    """The call is accepted, has no query descale, and its result is right."""
    kernel, calls = flash_attn.flash_attn_varlen_func, []

    def recorded(**kwargs):
        calls.append(kwargs)
        return kernel(**kwargs)

    monkeypatch.setattr(flash_attn, "flash_attn_varlen_func", recorded)
    impl = flash_attn.FlashAttentionImpl(
        NUM_HEADS,
        HEAD_SIZE,
        HEAD_SIZE**-0.5,
        NUM_HEADS,
        alibi_slopes=None,
        sliding_window=None,
        kv_cache_dtype="auto",
        attn_type=attn_type,
    )
    torch.manual_seed(0)
    shape = (sum(LENGTHS), NUM_HEADS, HEAD_SIZE)
    query, key, value = (torch.randn(shape, dtype=dtype) for _ in range(3))
    output = torch.full(shape, torch.nan, dtype=dtype)
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    metadata = SimpleNamespace(query_start_loc=starts, max_query_len=max(LENGTHS))
    one = torch.ones(1)
    layer = SimpleNamespace(_q_scale=one, _k_scale=one, _v_scale=one)
    impl._forward_encoder_attention(query, key, value, output, metadata, layer)

    # The kernels take no quantised query, and nothing here is quantised.
    assert calls[0].get("q_descale") is None
    parts = [t.cpu().float().split(LENGTHS) for t in (query, key, value)]
    expected = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(
                *(t.transpose(0, 1) for t in qkv)
            ).transpose(0, 1)
            for qkv in zip(*parts)
        ]
    )
    torch.testing.assert_close(output.cpu().float(), expected, atol=2e-2, rtol=2e-2)
