# SPDX-License-Identifier: Apache-2.0
"""Encoder or decoder: doctor's judgement against vLLM's, for all that it knows."""

import re
from typing import Any

import pytest
from vllm.model_executor.models import interfaces_base
from vllm.model_executor.models.registry import ModelRegistry

from tests.doctor import registry
from vllm_xpu_fp8_plugin.doctor.attention_layers import is_encoder

# vLLM's own wrappers, which no config.json names.
WRAPPERS = "Transformers"
FIELDS: tuple[dict[str, Any], ...] = (
    {},
    {"is_causal": False},
    {"is_decoder": True},
    {"is_decoder": False},
    {"use_bidirectional_attention": True},
)


@pytest.mark.parametrize("fields", FIELDS)
def test_judgement_is_vllms_for_every_architecture(fields: dict[str, Any]) -> None:
    """Catches an encoder taken for a decoder, or the reverse (EmbeddingGemma2)."""
    differ = {}
    names = registry.architectures()
    for name in names:
        if name.startswith(WRAPPERS):
            continue
        given = dict(fields)
        if name == "ColQwen3_5":
            given["retrieval_attention_contract"] = "causal"
        theirs = registry.is_encoder(name, given)
        ours = is_encoder({"architectures": [name], **given})
        if ours != theirs:
            differ[name] = theirs
    assert differ == {}
    assert len(names) > 300


def test_the_exceptions_are_what_they_are_said_to_be() -> None:
    """Catches an exception that a newer vLLM has made needless, or wrong."""
    for name in registry.ENCODERS:
        module, _ = registry.architectures()[name]
        source = registry._source(module).read_text()
        kinds = set(re.findall(r"AttentionType\.(\w+)", source))
        assert kinds == {"ENCODER_ONLY"}
    for name in registry.DECODERS:
        module, class_name = registry.architectures()[name]
        assert registry.says(module, class_name, "default_pooling_type") == "CLS"
        assert "ENCODER_ONLY" not in registry._source(module).read_text()


def test_the_two_contracts_of_colqwen() -> None:
    """Catches a family whose field names the kind in words."""
    for contract in ("causal", "bidirectional"):
        fields = {"retrieval_attention_contract": contract}
        theirs = registry.is_encoder("ColQwen3_5", fields)
        assert is_encoder({"architectures": ["ColQwen3_5"], **fields}) == theirs
        assert theirs == (contract == "bidirectional")


@pytest.mark.parametrize(
    "name",
    [
        "BertModel",
        "BertForTokenClassification",
        "RobertaForSequenceClassification",
        "ModernBertModel",
        "GteNewModel",
        "LlamaForCausalLM",
        "LlamaBidirectionalModel",
        "OpenAIPrivacyFilterForTokenClassification",
    ],
)
def test_what_is_read_is_what_vllm_finds(name: str) -> None:
    """Catches a reading of vLLM's sources that has nothing to do with its classes."""
    module, class_name = registry.architectures()[name]
    model = ModelRegistry.models[name].load_model_cls()
    found = interfaces_base.get_default_seq_pooling_type(model)
    assert registry.says(module, class_name, "default_pooling_type") == found
    found = interfaces_base.get_attn_type(model)
    assert registry.says(module, class_name, "attn_type") == found
