# SPDX-License-Identifier: Apache-2.0
"""Which weights FP8 quantises, or has quantised, from a checkpoint's header.

The tests compare with the layers that vLLM builds and quantises.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from vllm_xpu_fp8_plugin.doctor.attention_layers import is_encoder
from vllm_xpu_fp8_plugin.doctor.model_files import ModelFiles, TensorInfo

# vLLM quantises the linear layers in the repeated blocks of a model. What stands
# outside of them (embeddings, poolers, heads of encoders) is no `LinearBase`.
_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.\d+\.")
_NOT_LINEAR = re.compile(r"norm|embed|ln_|conv|rotary|bias_table", re.IGNORECASE)
# Routers of mixtures of experts, which vLLM makes without quantization.
_ROUTER = re.compile(r"\.(?:gate|router|shared_expert_gate)\.weight$")
_SCORE = re.compile(r"(?:^|\.)score\.weight$")
_HEAD = re.compile(r"(?:^|\.)lm_head\.weight$")
_EMBEDDING = re.compile(r"(?:embed_tokens|word_embeddings|wte)\.weight$")


class LinearLayers(NamedTuple):
    """What FP8 does to a checkpoint's weights.

    Attributes:
        quantised: Names of the weights that are, or become, FP8.
        values: Number of values in them.
        others: Number of values in all other tensors.
        doubts: (what is wrong, what to do) for weights better left as they are.

    """

    quantised: tuple[str, ...]
    values: int
    others: int
    doubts: tuple[tuple[str, str], ...]


def checkpoint_method(config: dict[str, Any]) -> str | None:
    """Return the quantization that the checkpoint's config names, None for none."""
    found = _quantization(config).get("quant_method")
    return found if isinstance(found, str) else None


def implies_fp8_kv_cache(config: dict[str, Any]) -> bool:
    """Return whether the checkpoint makes vLLM's ``auto`` KV cache an FP8 one."""
    quantization = _quantization(config)
    scheme = quantization.get("kv_cache_scheme")
    if isinstance(scheme, dict):
        return scheme.get("type") == "float" and scheme.get("num_bits") == 8
    return str(quantization.get("kv_cache_quant_algo", "")).upper() == "FP8"


def linear_layers(model: ModelFiles, head_is_quantised: bool | None) -> LinearLayers:
    """Return what FP8 does to the weights.

    Args:
        model: The model, with the tensors of its header.
        head_is_quantised: `vllm_sources.quantises_score_head`.

    """
    tensors = model.tensors
    stored = [n for n, t in tensors.items() if is_fp8(t)]
    if stored:
        doubts = _doubts_stored(model, stored)
        quantised = stored
    else:
        quantised = [n for n, t in tensors.items() if _becomes_fp8(n, t)]
        doubts = []
        heads = [n for n in tensors if _SCORE.search(n)]
        if heads and head_is_quantised and not is_encoder(model.config):
            quantised += heads
            doubts += _score_head(heads, tensors)
    values = _values(tensors[n] for n in quantised)
    return LinearLayers(
        tuple(sorted(quantised)),
        values,
        _values(tensors.values()) - values,
        tuple(doubts),
    )


def _becomes_fp8(name: str, tensor: TensorInfo) -> bool:
    # Experts' weights may be one tensor.
    dimensions = (2, 3) if ".experts." in name else (2,)
    return (
        len(tensor.shape) in dimensions
        and name.endswith((".weight", "_proj"))
        and _BLOCK.search(name) is not None
        and not _NOT_LINEAR.search(name)
        and not _ROUTER.search(name)
    )


def _doubts_stored(model: ModelFiles, stored: list[str]) -> list[tuple[str, str]]:
    """Return doubts about tensors that are FP8 in the file."""
    remedy = "Take a checkpoint that leaves them in bf16."
    doubts = _score_head([n for n in stored if _SCORE.search(n)], model.tensors)
    norms = [n for n in stored if "norm" in n.lower() and n.endswith(".weight")]
    embeddings = [n for n in stored if _EMBEDDING.search(n)]
    if norms:
        doubts.append((f"{len(norms)} norms are stored in FP8 ({norms[0]})", remedy))
    if embeddings:
        doubts.append((f"the embedding is stored in FP8 ({embeddings[0]})", remedy))
    if any(map(_HEAD.search, stored)) and model.config.get("tie_word_embeddings"):
        doubts.append(("lm_head is stored in FP8 and tied to the embedding", remedy))
    return doubts


def _score_head(
    names: Iterable[str], tensors: dict[str, TensorInfo]
) -> list[tuple[str, str]]:
    """Return a doubt for each quantised head of one output (vLLM #35849)."""
    return [
        (
            f"{name}, a head of one output, is quantised: scores may be all equal",
            "Quantise offline and leave the head out, or compare scores with bf16.",
        )
        for name in names
        if tensors[name].shape[:1] == (1,)
    ]


def _quantization(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("quantization_config")
    return found if isinstance(found, dict) else {}


def is_fp8(tensor: TensorInfo) -> bool:
    """Return whether a tensor of a checkpoint is stored in FP8."""
    return tensor.dtype in ("F8_E4M3", "F8_E5M2")


def _values(tensors: Iterable[TensorInfo]) -> int:
    return sum(math.prod(t.shape) for t in tensors)
