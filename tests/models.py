# SPDX-License-Identifier: Apache-2.0
"""Small models with seeded random weights, of architectures that no package ships."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PretrainedConfig

_COMMON = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 512,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "XLMRobertaForSequenceClassification": (
        "XLMRobertaConfig",
        {"max_position_embeddings": 258, "num_labels": 1, "pad_token_id": 1},
    ),
    "RobertaForSequenceClassification": (
        "RobertaConfig",
        {"max_position_embeddings": 258, "num_labels": 3, "pad_token_id": 1},
    ),
    # Local layers (a window of 16 tokens) and global ones.
    "ModernBertForSequenceClassification": (
        "ModernBertConfig",
        {
            "max_position_embeddings": 256,
            "num_labels": 3,
            "local_attention": 16,
            "global_attn_every_n_layers": 3,
            "pad_token_id": 0,
            "classifier_pooling": "mean",
        },
    ),
    "BertModel": ("BertConfig", {"max_position_embeddings": 256}),
    "LlamaForCausalLM": (
        "LlamaConfig",
        {"num_key_value_heads": 2, "max_position_embeddings": 512},
    ),
}


def make_model(architecture: str, folder: Path, **overrides: Any) -> str:
    """Write a model of `architecture` in float32 and return its folder.

    `overrides` are fields of its config.
    """
    torch.manual_seed(0)
    config_class, extra = CONFIGS[architecture]
    values = {**_COMMON, **extra, **overrides}
    config: PretrainedConfig = getattr(transformers, config_class)(**values)
    model = getattr(transformers, architecture)(config)
    # The usual initial weights are so small that every answer looks alike.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 1.0 / parameter.shape[1] ** 0.5)
            elif "bias" in name:
                parameter.normal_(0, 0.02)
    model.save_pretrained(folder)
    # A word an id; vLLM wants a tokenizer for pooling models.
    words = {f"w{i}": i for i in range(config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w3", pad_token="w1", eos_token="w2"
    ).save_pretrained(folder)
    return str(folder)


def token_ids(lengths: list[int]) -> list[list[int]]:
    """Return seeded random token sequences of the given lengths."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 500, (n,), generator=generator).tolist() for n in lengths]
