# SPDX-License-Identifier: Apache-2.0
"""What the XPU FlashAttention kernel takes as an argument and does not compute."""

# vLLM's backend that computes them.
COMPUTES_THEM = "TRITON_ATTN"


def ignored_by_kernel(*, alibi: bool, softcap: float | None) -> list[str]:
    """Return the features of an attention layer that its result would lack.

    ``csrc/flash_attn/flash_api.cpp`` names both and passes neither on.
    """
    features = {"ALiBi slopes": alibi, "a logits soft cap": bool(softcap)}
    return [name for name, wanted in features.items() if wanted]
