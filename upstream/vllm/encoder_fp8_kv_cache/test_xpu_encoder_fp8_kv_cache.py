# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""An encoder runs with --kv-cache-dtype fp8, of which it has no cache (#55048)."""

from types import SimpleNamespace

import pytest
import torch

from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.flash_attn import FlashAttentionImpl

if not current_platform.is_xpu():
    pytest.skip("XPU only", allow_module_level=True)

NUM_HEADS, HEAD_SIZE, LENGTHS = 4, 64, [5, 1, 33]


@pytest.fixture(autouse=True)
def on_xpu():
    with torch.device("xpu"):
        yield


def encode(kv_cache_dtype, scale):
    """Run encoder attention and return its output."""
    impl = FlashAttentionImpl(
        NUM_HEADS,
        HEAD_SIZE,
        HEAD_SIZE**-0.5,
        NUM_HEADS,
        alibi_slopes=None,
        sliding_window=None,
        kv_cache_dtype=kv_cache_dtype,
        attn_type=AttentionType.ENCODER_ONLY,
    )
    assert kv_cache_dtype == "auto" or not impl.supports_quant_query_input
    torch.manual_seed(0)
    shape = (sum(LENGTHS), NUM_HEADS, HEAD_SIZE)
    query, key, value = (torch.randn(shape).bfloat16() for _ in range(3))
    output = torch.full(shape, torch.nan).bfloat16()
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    metadata = SimpleNamespace(query_start_loc=starts, max_query_len=max(LENGTHS))
    layer = SimpleNamespace(_q_scale=scale, _k_scale=scale, _v_scale=scale)
    impl._forward_encoder_attention(query, key, value, output, metadata, layer)
    return output


def test_the_dtype_of_no_cache_changes_nothing():
    """The scales of a cache that an encoder does not have are not used either."""
    plain = encode("auto", torch.ones(1, device="xpu"))
    assert torch.isfinite(plain).all()
    quantised = encode("fp8", torch.full((1,), 3.0, device="xpu"))
    torch.testing.assert_close(quantised, plain, atol=0, rtol=0)
