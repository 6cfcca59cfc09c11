# SPDX-License-Identifier: Apache-2.0
"""What an attention layer may have that an XPU's FlashAttention kernel leaves out.

Every vllm-xpu-kernels looked at takes ALiBi slopes and a logits soft cap as
arguments of its op and computes without them (``csrc/flash_attn/flash_api.cpp`` names
both and passes neither on). Where a kernel can be asked, `kernel_trial` tries it.
"""

# vLLM's backend that computes them in decoder layers, and in encoder layers if its
# function for these takes them.
COMPUTES_THEM = "TRITON_ATTN"
# The same for values of another size than keys (DiffKV), and the one that does not.
DIFFKV_TRITON, DIFFKV_FLASH = "TRITON_ATTN_DIFFKV", "FLASH_ATTN_DIFFKV"

NOWHERE = (
    "No attention backend of this vLLM computes it in an encoder layer on an XPU "
    f"({COMPUTES_THEM} leaves it out, too): run the model with transformers."
)


def features(*, alibi: bool, softcap: bool) -> list[str]:
    """Return, in words, which of the two an attention layer has."""
    named = {"ALiBi slopes": alibi, "a logits soft cap": softcap}
    return [name for name, wanted in named.items() if wanted]


def arguments(*, alibi: bool, softcap: bool) -> set[str]:
    """Return the arguments that hand them to a kernel's function in vLLM."""
    named = {"alibi_slopes": alibi, "softcap": softcap}
    return {name for name, wanted in named.items() if wanted}
