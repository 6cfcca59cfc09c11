# SPDX-License-Identifier: Apache-2.0
"""Small models with seeded random weights, of architectures that no package ships."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
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
    "Qwen3ForCausalLM": (
        "Qwen3Config",
        {"num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 512},
    ),
    "Qwen3ForSequenceClassification": (
        "Qwen3Config",
        {
            "num_key_value_heads": 1,
            "head_dim": 64,
            "max_position_embeddings": 512,
            "num_labels": 3,
            "pad_token_id": 1,
        },
    ),
    "Qwen3MoeForCausalLM": (
        "Qwen3MoeConfig",
        {
            "num_key_value_heads": 2,
            "head_dim": 32,
            "moe_intermediate_size": 128,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "max_position_embeddings": 512,
        },
    ),
    "MixtralForCausalLM": (
        "MixtralConfig",
        {
            "num_key_value_heads": 2,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 512,
        },
    ),
    # Windows of 16 tokens in every other layer, and sinks.
    "GptOssForCausalLM": (
        "GptOssConfig",
        {
            "num_key_value_heads": 2,
            "head_dim": 64,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 16,
            "max_position_embeddings": 512,
            "num_hidden_layers": 2,
        },
    ),
    "DeepseekV2ForCausalLM": (
        "DeepseekV2Config",
        {
            "kv_lora_rank": 512,
            "q_lora_rank": None,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 64,
            "v_head_dim": 64,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 128,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "greedy",
            "norm_topk_prob": False,
            "max_position_embeddings": 512,
        },
    ),
    "Qwen3NextForCausalLM": (
        "Qwen3NextConfig",
        {
            "num_key_value_heads": 1,
            "head_dim": 64,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 512,
        },
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
            if parameter.dim() in (2, 3):
                parameter.normal_(0, 1.0 / parameter.shape[-1] ** 0.5)
            elif "bias" in name:
                parameter.normal_(0, 0.02)
            # Such that no engine's precision rounds the weights.
            parameter.copy_(parameter.bfloat16())
    model.save_pretrained(folder)
    # A word an id; vLLM wants a tokenizer for pooling models.
    special = {1: "[PAD]", 2: "[EOS]", 3: "[UNK]"}
    words = {special.get(i, f"w{i}"): i for i in range(config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    # RoBERTa's positions begin after the padding's, and its tokenizers say so.
    unused = config.pad_token_id + 1 if "Roberta" in architecture else 0
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        eos_token="[EOS]",
        model_max_length=config.max_position_embeddings - unused,
    ).save_pretrained(folder)
    return str(folder)


def token_ids(lengths: list[int]) -> list[list[int]]:
    """Return seeded random token sequences of the given lengths."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 500, (n,), generator=generator).tolist() for n in lengths]


def quantize_checkpoint(source: str, folder: Path, kind: str) -> tuple[str, str]:
    """Write an FP8 checkpoint of `source`, and what it means in float32.

    Args:
        source: A folder with a model in float32.
        folder: Two folders are made in it.
        kind: "channel": compressed-tensors with a scale for each output channel and
            dynamic scales for each token. "block": FP8 with a scale for each block of
            128 x 128 weights, as DeepSeek's.

    Returns:
        The folders of the FP8 checkpoint and of the same weights in float32.

    """
    tensors = load_file(Path(source) / "model.safetensors")
    fp8: dict[str, torch.Tensor] = {}
    for name, weight in tensors.items():
        if weight.dim() != 2 or "proj" not in name:
            fp8[name] = weight
            continue
        rows, columns = weight.shape
        if kind == "channel":
            scale = weight.abs().amax(dim=1, keepdim=True) / 448
            fp8[f"{name}_scale"] = expanded = scale
        else:
            blocks = weight.view(rows // 128, 128, columns // 128, 128)
            scale = blocks.abs().amax(dim=(1, 3)) / 448
            fp8[f"{name}_scale_inv"] = scale
            expanded = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
        fp8[name] = (weight / expanded).to(torch.float8_e4m3fn)
        tensors[name] = fp8[name].float() * expanded
    for suffix, content in (("fp8", fp8), ("float32", tensors)):
        shutil.copytree(source, folder / suffix)
        save_file(content, folder / suffix / "model.safetensors", {"format": "pt"})
    path = folder / "fp8" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {**_QUANTIZATION_CONFIGS[kind]}
    # Routers stay as they are, and the checkpoints of such models say so.
    if routers := [n.removesuffix(".weight") for n in fp8 if "mlp.gate." in n]:
        config["quantization_config"]["modules_to_not_convert"] = routers
    path.write_text(json.dumps(config))
    return str(folder / "fp8"), str(folder / "float32")


def _float8(strategy: str, dynamic: bool) -> dict[str, Any]:
    return {
        "num_bits": 8,
        "type": "float",
        "strategy": strategy,
        "symmetric": True,
        "dynamic": dynamic,
    }


_QUANTIZATION_CONFIGS: dict[str, dict[str, Any]] = {
    "channel": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": _float8("channel", dynamic=False),
                "input_activations": _float8("token", dynamic=True),
            }
        },
    },
    "block": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
}
