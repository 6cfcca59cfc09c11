# SPDX-License-Identifier: Apache-2.0
"""A model's layers as doctor reads them, against those that vLLM builds."""

import ast
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.doctor.build import build
from tests.doctor.packages import installed_vllm, once
from vllm_xpu_fp8_plugin.doctor import vllm_sources
from vllm_xpu_fp8_plugin.doctor.attention_layers import (
    AttentionLayers,
    attention_layers,
    is_encoder,
)
from vllm_xpu_fp8_plugin.doctor.linear_layers import linear_layers
from vllm_xpu_fp8_plugin.doctor.model_files import ModelError, ModelFiles, TensorInfo

_SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 512,
    "pad_token_id": 0,
}
_GQA = {"num_key_value_heads": 2, "head_dim": 64}

# Architecture -> class of the config, what is set in it.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BertModel": ("BertConfig", _SMALL),
    "XLMRobertaForSequenceClassification": (
        "XLMRobertaConfig",
        _SMALL | {"num_labels": 1},
    ),
    "ModernBertForSequenceClassification": (
        "ModernBertConfig",
        _SMALL | {"local_attention": 16, "num_hidden_layers": 6},
    ),
    "LlamaForCausalLM": ("LlamaConfig", _SMALL | _GQA),
    "LlamaBidirectionalModel": (
        "LlamaConfig",
        _SMALL | _GQA | {"is_causal": False, "pooling": "avg"},
    ),
    "Qwen3ForSequenceClassification": (
        "Qwen3Config",
        _SMALL | _GQA | {"num_labels": 1},
    ),
    "Gemma2ForCausalLM": ("Gemma2Config", _SMALL | _GQA | {"sliding_window": 32}),
    "MistralForCausalLM": ("MistralConfig", _SMALL | _GQA | {"sliding_window": 32}),
    "GptOssForCausalLM": (
        "GptOssConfig",
        _SMALL | _GQA | {"sliding_window": 32, "num_local_experts": 4},
    ),
    "BloomForCausalLM": (
        "BloomConfig",
        {"hidden_size": 128, "n_head": 4, "n_layer": 2, "vocab_size": 512},
    ),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {
            "d_model": 128,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "vocab_size": 512,
            "pad_token_id": 0,
        },
    ),
}
_HEADLESS = {"LlamaBidirectionalModel": "LlamaModel"}
_ROLES = {
    "AttentionType.ENCODER_ONLY": "encoder",
    "media": "media encoder",
    "AttentionType.DECODER": "decoder",
    "AttentionType.ENCODER_DECODER": "cross-attention",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a config.json for each of `MODELS`."""
    root = tmp_path_factory.mktemp("models")
    for name, (config_class, values) in MODELS.items():
        config = getattr(transformers, config_class)(**values)
        config.architectures = [name]
        config.save_pretrained(root / name)
    return {name: root / name for name in MODELS}


@pytest.fixture(scope="module")
def built(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Build all models with vLLM, in one process."""
    models = {
        name: {"model": str(folder), "quantization": "fp8"}
        for name, folder in folders.items()
    }
    made: dict[str, dict[str, Any]]
    made = once(tmp_path_factory, "built", lambda: build(models))
    return made


def read(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def kinds(layers: list[AttentionLayers]) -> Counter[tuple[Any, ...]]:
    counted: Counter[tuple[Any, ...]] = Counter()
    for kind in layers:
        window = kind.window is not None
        assert kind.head_size_v is None
        key = (kind.role, *kind[2:5], window, *kind[6:-1])
        counted[key] += kind.layers
    return counted


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_attention_layers_are_those_that_vllm_builds(
    name: str, built: dict[str, dict[str, Any]], folders: dict[str, Path]
) -> None:
    """Catches a field of a config that is read for the wrong thing, or not at all."""
    assert "error" not in built[name]
    expected: Counter[tuple[Any, ...]] = Counter()
    for layer in built[name]["attention"]:
        expected[(_ROLES[layer["role"]], *list(layer.values())[1:-1])] += 1
    assert kinds(attention_layers(read(folders[name]))) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_quantised_weights_are_those_that_vllm_quantises(
    name: str, built: dict[str, dict[str, Any]], folders: dict[str, Path]
) -> None:
    """Catches a weight that becomes FP8 and is not counted, or the reverse."""
    if name == "GptOssForCausalLM":
        pytest.skip("vLLM's experts are no LinearBase; transformers' are one tensor")
    config = read(folders[name])
    with torch.device("meta"):
        model = getattr(transformers, _HEADLESS.get(name, name))(
            transformers.AutoConfig.from_pretrained(folders[name])
        )
    tensors = {
        n: TensorInfo("F32", tuple(p.shape)) for n, p in model.named_parameters()
    }
    files = ModelFiles(name, config, tensors, ())
    head = vllm_sources.quantises_score_head(installed_vllm())
    found = linear_layers(files, head)
    expected = sum(x["values"] for x in built[name]["linear"].values() if x["fp8"])
    assert found.values == expected
    assert found.values + found.others == sum(p.numel() for p in model.parameters())
    assert bool(found.doubts) == (name == "Qwen3ForSequenceClassification")


def test_architectures_that_are_always_encoders_in_vllm_are_so_here() -> None:
    """Catches an encoder taken for a decoder by its name."""
    models = installed_vllm() / "model_executor/models"
    modules = {"bert", "roberta", "modernbert", "bert_with_rope"}
    names = set()
    for node in ast.walk(ast.parse((models / "registry.py").read_text())):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                    module = value.elts[0]
                    if isinstance(module, ast.Constant) and module.value in modules:
                        names.add(key.value)
    assert len(names) > 10
    missed = [n for n in names if not is_encoder({"architectures": [n]})]
    assert missed == []


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        ({"local_attention": 128, "global_attn_every_n_layers": 3}, {None: 2, 128: 4}),
        ({"sliding_window": 8, "sliding_window_pattern": 3}, {None: 2, 8: 4}),
        ({"sliding_window": 8, "model_type": "gemma2"}, {None: 3, 8: 3}),
        ({"sliding_window": 8, "use_sliding_window": False}, {None: 6}),
        ({"sliding_window": 8}, {8: 6}),
        ({"sliding_window": None}, {None: 6}),
        (
            {"sliding_window": 8, "layer_types": ["full_attention", "mamba"]},
            {None: 1},
        ),
    ],
)
def test_windows_of_configs_in_older_forms(
    config: dict[str, Any], windows: dict[int | None, int]
) -> None:
    """Catches a ModernBERT without `layer_types` whose local layers are not seen."""
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 6}
    layers = attention_layers(shape | config)
    assert {kind.window: kind.layers for kind in layers} == windows


def test_quantised_checkpoints_are_looked_through() -> None:
    """Catches FP8 norms, embeddings, tied and 1-wide heads that are not doubted."""
    tensors = {
        "model.embed_tokens.weight": TensorInfo("F8_E4M3", (512, 64)),
        "model.layers.0.input_layernorm.weight": TensorInfo("F8_E4M3", (64,)),
        "model.layers.0.mlp.up_proj.weight": TensorInfo("F8_E4M3", (128, 64)),
        "model.layers.0.mlp.up_proj.weight_scale": TensorInfo("F32", (1,)),
        "lm_head.weight": TensorInfo("F8_E4M3", (512, 64)),
        "score.weight": TensorInfo("F8_E4M3", (1, 64)),
    }
    config = {"tie_word_embeddings": True, "architectures": ["LlamaForCausalLM"]}
    found = linear_layers(ModelFiles("m", config, tensors, ()), head_is_quantised=True)
    text = " ".join(finding for finding, _ in found.doubts)
    for word in ("norms", "embedding", "lm_head", "score.weight"):
        assert word in text
    assert len(found.doubts) == 4


_KEYS = st.sampled_from(
    [
        "hidden_size",
        "num_attention_heads",
        "num_hidden_layers",
        "head_dim",
        "sliding_window",
        "num_key_value_heads",
        "layer_types",
        "text_config",
        "is_encoder_decoder",
        "architectures",
        "attn_logit_softcapping",
        "attn_config",
        "quantization_config",
        "is_causal",
        "alibi",
        "encoder_layers",
        "d_model",
        "sliding_window_pattern",
        "model_type",
        "v_head_dim",
        "v_channels",
        "qk_rope_dim",
    ]
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.just(10**400)
    | st.floats()
    | st.sampled_from([1, 2, 4, 64, "sliding_attention", "gemma2", "bert", "alibi"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=6)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(_KEYS, _VALUES))
def test_any_config_is_read_or_refused(config: dict[str, Any]) -> None:
    """Catches a field of an unexpected type that ends in a traceback."""
    try:
        layers = attention_layers(config)
    except ModelError:
        return
    assert all(kind.layers > 0 and kind.head_size > 0 for kind in layers)
    json.dumps([kind._asdict() for kind in layers], allow_nan=False)


@pytest.mark.parametrize("cap", [10**400, math.inf, -math.inf, math.nan, -3])
def test_a_softcap_that_is_none_is_named(cap: float) -> None:
    """Catches an overflow, and a report that is no JSON."""
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 6}
    with pytest.raises(ModelError, match="attn_logit_softcapping="):
        attention_layers(shape | {"attn_logit_softcapping": cap})
