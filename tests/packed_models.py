# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with weights of four bits, packed as their formats say."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_GROUP = 32
_LINEAR = re.compile(r"proj|encoder\..*\.(query|key|value|dense)\.")


def mxfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise ``[..., K]`` by groups of 32 along K.

    Returns:
        Codes [..., K / 32, 16], two a byte; UE8M0 scales [..., K / 32]; and the values
        that these stand for.

    """
    # compressed-tensors' own packing.
    from compressed_tensors.compressors.mx_utils import compress_mx_scale
    from compressed_tensors.compressors.nvfp4.helpers import (
        pack_fp4_to_uint8,
        unpack_fp4_from_uint8,
    )

    groups = weight.float().unflatten(-1, (-1, _GROUP))
    scale = torch.exp2((groups.abs().amax(-1, keepdim=True) / 6).log2().ceil())
    rows = (groups / scale).flatten(0, -2)
    codes = pack_fp4_to_uint8(rows)
    values = unpack_fp4_from_uint8(codes, *rows.shape, torch.float32)
    return (
        codes.view(*groups.shape[:-1], _GROUP // 2),
        compress_mx_scale(scale.squeeze(-1), torch.uint8),
        (values.view_as(groups) * scale).flatten(-2),
    )


def int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise ``[N, K]`` by groups of 32 along K, around 8.

    Returns:
        GPTQ's qweight [K / 8, N], int32, and scales [K / 32, N], float16; and the
        values that these stand for, [N, K].

    """
    groups = weight.float().unflatten(-1, (-1, _GROUP))
    scale = (groups.abs().amax(-1, keepdim=True) / 7).half().float()
    codes = (groups / scale).round().clamp(-8, 7)
    values = (codes * scale).flatten(-2)
    nibbles = (codes.flatten(-2).long() + 8).t().unflatten(0, (-1, 8))
    packed = (nibbles << 4 * torch.arange(8)[:, None]).sum(1)
    packed = packed.where(packed < 2**31, packed - 2**32).int()
    return packed.contiguous(), scale.squeeze(-1).t().contiguous().half(), values


def pack(source: str, folder: Path, kind: str) -> tuple[str, str]:
    """Write a checkpoint of `source` in four bits, and what it means in float32.

    Args:
        source: A folder with a model in float32.
        folder: Two folders are made in it.
        kind: "mxfp4": the experts of a gpt-oss. "gptq" or "auto-round": the
            linear layers of a decoder or of a BERT, in GPTQ's packing.

    Returns:
        The folders of the packed checkpoint and of the same weights in float32.

    """
    tensors = load_file(Path(source) / "model.safetensors")
    packed: dict[str, Tensor] = {}
    for name, weight in tensors.items():
        if kind == "mxfp4" and name.endswith(("gate_up_proj", "down_proj")):
            codes, scales, values = mxfp4(weight.transpose(1, 2))
            packed[f"{name}_blocks"], packed[f"{name}_scales"] = codes, scales
            tensors[name] = values.transpose(1, 2).contiguous()
        elif kind != "mxfp4" and weight.dim() == 2 and _LINEAR.search(name):
            stem = name.removesuffix(".weight")
            codes, scales, tensors[name] = int4(weight)
            packed[f"{stem}.qweight"], packed[f"{stem}.scales"] = codes, scales
            rows, columns = scales.shape
            # GPTQ stores a zero point less one.
            zeros = torch.full((rows, columns // 8), 0x77777777, dtype=torch.int32)
            packed[f"{stem}.qzeros"] = zeros
            groups = torch.arange(weight.shape[1]) // _GROUP
            packed[f"{stem}.g_idx"] = groups.int()
        else:
            packed[name] = weight
    for suffix, content in (("packed", packed), ("float32", tensors)):
        shutil.copytree(source, folder / suffix)
        save_file(content, folder / suffix / "model.safetensors", {"format": "pt"})
    path = folder / "packed" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = _CONFIGS[kind]
    path.write_text(json.dumps(config))
    return str(folder / "packed"), str(folder / "float32")


_INT4 = {"bits": 4, "group_size": _GROUP, "sym": True}
_CONFIGS: dict[str, dict[str, Any]] = {
    "mxfp4": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
    "gptq": {"quant_method": "gptq", "desc_act": False, **_INT4},
    "auto-round": {
        "quant_method": "auto-round",
        "packing_format": "auto_round:auto_gptq",
        "autoround_version": "0.9",
        "data_type": "int",
        **_INT4,
    },
}


def minicpm(source: str, folder: Path) -> tuple[str, str]:
    """Write a MiniCPM with the weights of a Llama, and the Llama that it is.

    MiniCPM multiplies embeddings, what each layer adds, and the last hidden state by
    constants; in the Llama they are part of the weights.
    """
    embedding, depth, base = 12.0, 1.4, 32
    config = json.loads((Path(source) / "config.json").read_text())
    part = depth / config["num_hidden_layers"] ** 0.5
    tensors = load_file(Path(source) / "model.safetensors")
    factors = {
        "embed_tokens": embedding,
        "o_proj": part,
        "down_proj": part,
        "lm_head": base / config["hidden_size"],
    }
    folded = {}
    for name, weight in tensors.items():
        factor = next((f for key, f in factors.items() if key in name), 1.0)
        folded[name] = weight * factor
    for suffix, content in (("minicpm", tensors), ("llama", folded)):
        shutil.copytree(source, folder / suffix)
        save_file(content, folder / suffix / "model.safetensors", {"format": "pt"})
    config |= {
        "architectures": ["MiniCPMForCausalLM"],
        "scale_emb": embedding,
        "scale_depth": depth,
        "dim_model_base": base,
        "num_experts": 0,
        "tie_word_embeddings": False,
    }
    (folder / "minicpm" / "config.json").write_text(json.dumps(config))
    return str(folder / "minicpm"), str(folder / "llama")
