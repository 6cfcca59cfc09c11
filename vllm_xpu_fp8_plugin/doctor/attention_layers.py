# SPDX-License-Identifier: Apache-2.0
"""The kinds of attention layers that a model has, from its config.json.

The tests compare with the layers that vLLM builds from the same configs.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

from vllm_xpu_fp8_plugin.doctor.model_files import ModelError

ENCODER, MEDIA, DECODER, CROSS = (
    "encoder",
    "media encoder",
    "decoder",
    "cross-attention",
)

# Names differ between model families; the first that a config has counts.
_HEADS = (
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "encoder_attention_heads",
)
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_MEDIA_WIDTH = ("embed_dim", *_HIDDEN)
_HEAD_SIZE = ("head_dim", "d_kv", "attention_head_dim")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_MEDIA_LAYERS = ("depth", "encoder_layers", *_LAYERS)
_WINDOW = ("sliding_window", "local_attention", "sliding_window_size")
_SOFTCAP = ("attn_logit_softcapping", "attn_logit_softcap")

# Architectures that vLLM makes encoders of, whatever else a config says, and model
# types of others. The tests compare with every architecture in vLLM's registry.
_ENCODER_NAME = re.compile(
    r"bert|(?<!^deepseekv3)bidirectional|^bge|^gte|^new(model|for)|^siglip|^embeddinggemma2"
    r"|^llamanemotronvl|^openai_?privacy_?filter",
    re.IGNORECASE,
)
# Architectures that have both kinds, the field whose value makes an encoder, and
# whether any other value makes a decoder (vllm/model_executor/models/config.py).
_ENCODER_FIELDS = {
    "Gemma3TextModel": ("use_bidirectional_attention", True, True),
    "JinaEmbeddingsV5Model": ("is_decoder", False, False),
    "ColQwen3_5": ("retrieval_attention_contract", "bidirectional", True),
}
_WINDOWED = ("sliding_attention", "local_attention")
_NO_ATTENTION = ("linear_attention", "mamba", "conv", "recurrent")
_LARGEST = 1 << 20


class AttentionLayers(NamedTuple):
    """Layers that are alike.

    Attributes:
        role: `ENCODER` (bidirectional, no KV cache), `MEDIA` (the same for images or
            sound, which vLLM computes outside of its attention backends), `DECODER`
            or `CROSS`.
        layers: How many there are.
        head_size: Size of a query head.
        num_heads: Query heads.
        num_kv_heads: Key/value heads.
        window: Tokens of the sliding window as the config gives it, None for all.
        softcap: Logits soft cap, None for none.
        alibi: Whether there are ALiBi slopes.
        sinks: Whether there are attention sinks.
        head_size_v: Size of a value head where it is another one (DiffKV), else None.

    """

    role: str
    layers: int
    head_size: int
    num_heads: int
    num_kv_heads: int
    window: int | None = None
    softcap: float | None = None
    alibi: bool = False
    sinks: bool = False
    head_size_v: int | None = None


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a config that describes the language model."""
    for name in ("text_config", "llm_config", "language_config"):
        inner = config.get(name)
        if isinstance(inner, dict) and _first(inner, _HEADS) is not None:
            return inner
    return config


def architecture(config: dict[str, Any]) -> str:
    """Return the first of the config's architectures, or an empty string."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    return first if isinstance(first, str) else ""


def uses_mla(config: dict[str, Any]) -> bool:
    """Return whether the model has multi-head latent attention, another backend's."""
    return isinstance(text_config(config).get("kv_lora_rank"), int)


def attention_layers(config: dict[str, Any]) -> list[AttentionLayers]:
    """Return the kinds of attention layers, those of images and sound first.

    Raises:
        ModelError: The config lacks what says their number or shape.

    """
    if config.get("is_encoder_decoder") is True:
        return _encoder_decoder(config)
    inner = text_config(config)
    role = ENCODER if is_encoder(config) else DECODER
    heads = _size(inner, _HEADS)
    head_size, head_size_v = _head_sizes(inner, heads)
    base = AttentionLayers(
        role,
        layers=0,
        head_size=head_size,
        num_heads=heads,
        num_kv_heads=_kv_heads(inner, heads),
        softcap=_softcap(inner),
        alibi=_has_alibi(config, inner),
        sinks="gptoss" in architecture(config).lower()
        or inner.get("model_type") == "gpt_oss",
        head_size_v=None if head_size_v == head_size else head_size_v,
    )
    windows = Counter(_windows(inner, _size(inner, _LAYERS)))
    if not windows:
        raise ModelError("The config names no layer with attention.")
    # Layers without a window first.
    return _media_encoders(config) + [
        base._replace(window=window, layers=count)
        for window, count in sorted(windows.items(), key=lambda x: (x[0] or 0, x[1]))
    ]


def is_encoder(config: dict[str, Any]) -> bool:
    """Return whether the model's layers are bidirectional, without a KV cache."""
    name = architecture(config)
    if _ENCODER_NAME.search(name):
        return True
    parts = (text_config(config), config)
    if name in _ENCODER_FIELDS:
        field, value, decides = _ENCODER_FIELDS[name]
        found = any(part.get(field) == value for part in parts)
        if found or decides:
            return found
    for part in parts:
        if isinstance(part.get("is_causal"), bool):
            return not part["is_causal"]
        if part.get("is_decoder") is True:
            return False
    return not name and bool(_ENCODER_NAME.search(str(config.get("model_type", ""))))


def _encoder_decoder(config: dict[str, Any]) -> list[AttentionLayers]:
    """Return the encoder's, the decoder's and the cross-attention layers."""
    layers = []
    for role, side in ((MEDIA, "encoder"), (DECODER, "decoder"), (CROSS, "decoder")):
        heads = _size(config, (f"{side}_attention_heads", *_HEADS))
        count = _size(config, (f"{side}_layers", f"num_{side}_layers", *_LAYERS))
        size = _head_size(config, heads)
        layers.append(AttentionLayers(role, count, size, heads, heads))
    return layers


def _media_encoders(config: dict[str, Any]) -> list[AttentionLayers]:
    """Return the layers of the parts that see and hear, where they are described."""
    layers = []
    for name in ("vision_config", "audio_config"):
        part = config.get(name)
        # Some families have encoders that are no transformers.
        if isinstance(part, dict) and _first(part, _HEADS) is not None:
            heads = _size(part, _HEADS)
            size = _head_size(part, heads, _MEDIA_WIDTH)
            count = _size(part, _MEDIA_LAYERS)
            layers.append(AttentionLayers(MEDIA, count, size, heads, heads))
    return layers


def _windows(config: dict[str, Any], count: int) -> list[int | None]:
    """Return the window of each layer with attention."""
    types = config.get("layer_types")
    window = _optional(config, _WINDOW)
    if isinstance(types, list) and types:
        if len(types) > _LARGEST:
            raise ModelError(f"The config names {len(types)} layers.")
        return [
            window if kind in _WINDOWED else None
            for kind in types
            if kind not in _NO_ATTENTION
        ]
    if window is None or config.get("use_sliding_window") is False:
        return [None] * count
    # ModernBERT's and Gemma's: the layer that is not windowed comes first, or last.
    every = _optional(config, ("global_attn_every_n_layers",))
    if every:
        return [window if i % every else None for i in range(count)]
    every = _optional(config, ("sliding_window_pattern", "_sliding_window_pattern"))
    if config.get("model_type") == "gemma2":
        every = 2
    if every:
        return [window if (i + 1) % every else None for i in range(count)]
    return [window] * count


def _head_size(
    config: dict[str, Any], heads: int, width: tuple[str, ...] = _HIDDEN
) -> int:
    explicit = _optional(config, _HEAD_SIZE)
    if explicit:
        return explicit
    hidden = _size(config, width)
    if hidden < heads:
        raise ModelError(f"The config has {hidden} hidden values for {heads} heads.")
    return hidden // heads


def _head_sizes(config: dict[str, Any], heads: int) -> tuple[int, int]:
    """Return the size of a key's head and of a value's."""
    # OpenPangu's parts of a key.
    parts = [_optional(config, (name,)) for name in ("qk_nope_dim", "qk_rope_dim")]
    size = sum(filter(None, parts)) or _head_size(config, heads)
    return size, _optional(config, ("v_channels", "v_head_dim")) or size


def _kv_heads(config: dict[str, Any], heads: int) -> int:
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1
    found = _optional(config, _KV_HEADS) or heads
    if heads % found:
        raise ModelError(f"{heads} heads do not divide by {found} key/value heads.")
    return found


def _softcap(config: dict[str, Any]) -> float | None:
    value = _first(config, _SOFTCAP)
    if type(value) not in (int, float) or not value:
        return None
    # JSON as Python reads it has infinities, NaN and integers of any length.
    if not 0 < value < _LARGEST:
        raise ModelError(f"The config has {_SOFTCAP[0]}={str(value)[:40]}.")
    return float(value)


def _has_alibi(config: dict[str, Any], inner: dict[str, Any]) -> bool:
    attention = inner.get("attn_config")
    return (
        inner.get("alibi") is True
        or inner.get("position_embedding_type") == "alibi"
        or config.get("model_type") == "bloom"
        or (isinstance(attention, dict) and attention.get("alibi") is True)
    )


def _size(config: dict[str, Any], names: tuple[str, ...]) -> int:
    value = _optional(config, names)
    if value is None:
        raise ModelError(f"The config has no {names[0]}.")
    return value


def _optional(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    value = _first(config, names)
    if value is None:
        return None
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise ModelError(f"The config has {names[0]}={str(value)[:40]}.")
    return value


def _first(config: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[n] for n in names if config.get(n) is not None), None)
