# SPDX-License-Identifier: Apache-2.0
"""What will compute an attention layer on an Intel GPU, and whether rightly."""

from typing import NamedTuple

from vllm_xpu_fp8_plugin.doctor.attention_layers import (
    CROSS,
    DECODER,
    ENCODER,
    MEDIA,
    AttentionLayers,
)
from vllm_xpu_fp8_plugin.kernel_package import compiled_attention, left_out
from vllm_xpu_fp8_plugin.kernel_package.left_out import COMPUTES_THEM
from vllm_xpu_fp8_plugin.kernel_package.python_layer import (
    NO_FALLBACK,
    RETURNS_ONLY,
    WRITES_OUT,
    PythonLayer,
)
from vllm_xpu_fp8_plugin.kernel_package.python_layer import (
    REFUSED as QUERY_DESCALE_REFUSED,
)

COMPILED = "compiled kernel"
FALLBACK = "slow PyTorch fallback"
WRONG = "wrong result"
REFUSED = "refused"
UNKNOWN = "unknown"

_DIFFKV_REMEDY = "No backend that this model takes computes it: use transformers."
# vLLM's on an XPU, unless --block-size says otherwise.
_PAGE_SIZE = 64


class Verdict(NamedTuple):
    """What becomes of a kind of layer.

    Attributes:
        verdict: `COMPILED`, `FALLBACK`, `WRONG`, `REFUSED` or `UNKNOWN`.
        reason: Half a sentence.
        remedy: A sentence, empty where nothing is to be done.

    """

    verdict: str
    reason: str
    remedy: str = ""


def judge(
    layers: AttentionLayers,
    kernels: compiled_attention.CompiledSet | None,
    python_layer: PythonLayer,
    *,
    with_plugin: bool,
    triton_takes: frozenset[str] = frozenset(),
) -> Verdict:
    """Return the verdict on a kind of layer, with the FLASH_ATTN backend.

    Args:
        layers: The layers.
        kernels: The kernels compiled for the GPU's architecture, None if not known.
        python_layer: What the kernel package's Python layer does without one.
        with_plugin: Whether vLLM runs with this plugin's backend.
        triton_takes: What vLLM's Triton backend takes in an encoder layer
            (`vllm_sources.triton_encoder_arguments`).

    """
    plugin_applies = with_plugin and layers.role == ENCODER
    wanted = {"alibi": layers.alibi, "softcap": bool(layers.softcap)}
    named = left_out.features(**wanted)
    if named:
        what = " and ".join(named)
        remedy = f"Add --attention-backend {COMPUTES_THEM}, which computes it."
        if layers.role == ENCODER and not left_out.arguments(**wanted) <= triton_takes:
            remedy = left_out.NOWHERE
        if plugin_applies:
            return Verdict(REFUSED, f"the kernel ignores {what}", remedy)
        return Verdict(WRONG, f"the kernel computes it without {what}", remedy)
    if layers.head_size_v is not None:
        # vLLM hands its kernel a query descale, which the plugin takes away.
        refuses = with_plugin or python_layer.query_descale == QUERY_DESCALE_REFUSED
        reason = "the kernel's prefill takes values for as large as keys"
        return Verdict(REFUSED if refuses else WRONG, reason, _DIFFKV_REMEDY)
    if kernels is None or not kernels.prefill:
        return Verdict(UNKNOWN, "the names of the compiled kernels were not found")
    missing = _missing(layers, kernels)
    if not missing:
        return Verdict(COMPILED, "")
    reason = f"no kernel is compiled for {missing}"
    option = "mm-encoder-attn-backend" if layers.role == MEDIA else "attention-backend"
    other = f"Use another vllm-xpu-kernels, or --{option} {COMPUTES_THEM}"
    if python_layer.fallback == WRITES_OUT:
        return Verdict(FALLBACK, reason, f"{other}.")
    if python_layer.fallback == RETURNS_ONLY:
        if layers.role == MEDIA:
            # vLLM takes what the call returns there (ops/vit_attn_wrappers.py).
            return Verdict(FALLBACK, reason, f"{other}.")
        if plugin_applies:
            return Verdict(FALLBACK, f"{reason}; the plugin keeps its result", "")
        plugin = " With VLLM_XPU_FP8_PLUGIN=1 it is right, and slow."
        return Verdict(
            WRONG,
            f"{reason}, and the fallback's result is lost",
            f"{other}.{plugin if layers.role == ENCODER else ''}",
        )
    if python_layer.fallback == NO_FALLBACK:
        return Verdict(REFUSED, f"{reason}, and there is no fallback", f"{other}.")
    return Verdict(UNKNOWN, reason, f"{other}.")


def _missing(layers: AttentionLayers, kernels: compiled_attention.CompiledSet) -> str:
    """Return the first call of the layers that has no kernel, empty if all have."""
    local = layers.window is not None
    what = f"head size {layers.head_size}" + (" with a window" if local else "")
    prefill = compiled_attention.find(
        kernels.prefill,
        layers.head_size,
        paged=layers.role not in (ENCODER, MEDIA),
        causal=layers.role == DECODER,
        local=local,
        sink=layers.sinks,
        lse=False,
    )
    if prefill is None:
        paged = layers.role in (DECODER, CROSS)
        step = "prefill" if paged else "bidirectional attention"
        return f"{step}, {what}"
    if layers.role in (DECODER, CROSS) and kernels.decode:
        decode = compiled_attention.find_decode(
            kernels.decode,
            layers.head_size,
            heads_per_kv_head=layers.num_heads // layers.num_kv_heads,
            page_size=_PAGE_SIZE,
            local=local,
            sink=layers.sinks,
        )
        if decode is None:
            return f"decode, {what}, block size {_PAGE_SIZE}"
    return ""
