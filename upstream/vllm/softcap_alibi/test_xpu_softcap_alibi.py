# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""What no kernel computes on an XPU is refused when the model loads."""

import pytest

from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.flash_attn import FlashAttentionImpl
from vllm.v1.attention.backends.triton_attn import TritonAttentionImpl

if not current_platform.is_xpu():
    pytest.skip("XPU only", allow_module_level=True)

LEFT_OUT = [{"logits_soft_cap": 30.0}, {"alibi_slopes": [0.5, 0.25]}]


def make(impl, attn_type, **kwargs):
    """Make a layer's implementation."""
    arguments = {"alibi_slopes": None, "sliding_window": None, **kwargs}
    return impl(
        2, 64, 0.125, 2, kv_cache_dtype="auto", attn_type=attn_type, **arguments
    )


@pytest.mark.parametrize("left_out", LEFT_OUT)
@pytest.mark.parametrize(
    "attn_type", [AttentionType.DECODER, AttentionType.ENCODER_ONLY]
)
def test_flash_attention_refuses(attn_type, left_out):
    """The XPU kernels take both as arguments and compute without them."""
    with pytest.raises(NotImplementedError, match="XPU"):
        make(FlashAttentionImpl, attn_type, **left_out)


@pytest.mark.parametrize("left_out", LEFT_OUT)
def test_triton_refuses_in_encoder_layers(left_out):
    """Its function for encoder attention has no such arguments."""
    with pytest.raises(NotImplementedError, match="encoder"):
        make(TritonAttentionImpl, AttentionType.ENCODER_ONLY, **left_out)
    make(TritonAttentionImpl, AttentionType.DECODER, **left_out)


def test_plain_layers_are_taken():
    """Neither is refused without them."""
    for impl in (FlashAttentionImpl, TritonAttentionImpl):
        make(impl, AttentionType.ENCODER_ONLY)
        make(impl, AttentionType.DECODER, logits_soft_cap=0.0)
