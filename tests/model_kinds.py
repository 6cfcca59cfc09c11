# SPDX-License-Identifier: Apache-2.0
"""Kinds of models beyond encoders and plain decoders, one table of them.

Small models with random weights, each with what transformers makes of it in float32,
which knows what a packed weight stands for.

Not among them, for vLLM has faults there on any device: gpt-oss with ``--quantization
fp8``, whose experts read memory that nothing has written, and a decoder that classifies
with it, which does not start.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests import auto_round_model, packed_models
from tests.models import make_model, quantize_checkpoint, token_ids

PROMPTS = token_ids([1, 40, 70])
# Which of the adapters each prompt asks for.
ADAPTERS = (0, 1, 0)

_HALF: dict[str, Any] = {"dtype": "float16"}
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
        reference: The model of transformers; by default of the plain values.

    """

    make: Callable[[Path], Checkpoint]
    options: dict[str, Any]
    allowed: float
    work: str = "prompts"
    reference: Callable[[Checkpoint], Any] = loaded


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


def _classifier(checkpoint: Checkpoint) -> Any:
    auto = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(checkpoint.plain, dtype=torch.float32).eval()


def plain(architecture: str, **sizes: Any) -> Callable[[Path], Checkpoint]:
    """Return what makes a model with other sizes than those of `models`."""

    def make(folder: Path) -> Checkpoint:
        made = make_model(architecture, folder / "model", **sizes)
        return Checkpoint(made, made)

    return make


def _packed(architecture: str, kind: str) -> Callable[[Path], Checkpoint]:
    def make(folder: Path) -> Checkpoint:
        source = make_model(architecture, folder / "model")
        return Checkpoint(*packed_models.pack(source, folder, kind))

    return make


def _of_auto_round(folder: Path) -> Checkpoint:
    source = make_model("LlamaForCausalLM", folder / "model")
    return Checkpoint(*auto_round_model.quantized(source, folder))


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


def _adapted(folder: Path) -> Checkpoint:
    """Write an FP8 checkpoint and two adapters for it."""
    peft = pytest.importorskip("peft")
    source = make_model("LlamaForCausalLM", folder / "model")
    made = Checkpoint(*quantize_checkpoint(source, folder, "channel"))
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


_LORA = {"enable_lora": True, "max_loras": 2, "max_lora_rank": 8}

# What each catches is beside it.
KINDS = {
    # An expert that is another's. A router's two best may change places in half.
    "qwen3-moe": Kind(plain("Qwen3MoeForCausalLM"), _HALF, 0.3),
    "mixtral": Kind(plain("MixtralForCausalLM"), _HALF, 0.05),
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
    "gptq": Kind(_packed("LlamaForCausalLM", "gptq"), _HALF, 0.05),
    "auto-round": Kind(_packed("LlamaForCausalLM", "auto-round"), _HALF, 0.05),
    # A checkpoint that only our own packing makes.
    "auto-round-package": Kind(_of_auto_round, _HALF, 0.05),
    # Halves of a byte swapped, or a scale along the wrong axis.
    "gpt-oss-mxfp4": Kind(
        _packed("GptOssForCausalLM", "mxfp4"), {"dtype": "bfloat16"}, 0.4
    ),
    # FP8 that changes what the model's constants multiply (vLLM #39862).
    "minicpm": Kind(_minicpm, _HALF, 0.05),
    "minicpm-fp8": Kind(_minicpm, _FP8, 0.5),
    # A request that gets the adapter of another.
    "lora": Kind(_adapted, {**_HALF, **_LORA}, 0.3),
    # Another token's state than the last one's, or a causal mask left out.
    "qwen3-embedder": Kind(plain("Qwen3ForCausalLM"), _HALF, 0.001, "embed"),
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


def farthest(kind: Kind, checkpoint: Checkpoint, answers: list[Any]) -> float:
    """Return how far answers to `PROMPTS` are from transformers', as `allowed` is.

    Infinite where one is nearer to what another adapter gives.
    """
    model = kind.reference(checkpoint)
    if kind.work == "embed":
        return max(map(_from_vector(model), PROMPTS, answers))
    if kind.work == "classify":
        return max(map(_from_classes(model), PROMPTS, answers))
    if not checkpoint.adapters:
        return max(drift(model, *pair) for pair in zip(PROMPTS, answers, strict=True))
    import peft

    models = [
        peft.PeftModel.from_pretrained(loaded(checkpoint), folder)
        for folder in checkpoint.adapters
    ]
    found = []
    for which, *pair in zip(ADAPTERS, PROMPTS, answers, strict=True):
        own, other = (drift(models[i], *pair) for i in (which, 1 - which))
        found.append(own if other > 2 * own else torch.inf)
    return max(found)


def drift(model: Any, prompt: list[int], done: Any) -> float:
    """Return how far the logprobs of what was chosen are from the model's, in nats."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + done["tokens"]])).logits[0]
    reference = logits[len(prompt) - 1 : -1].log_softmax(-1)
    chosen = reference.gather(1, torch.tensor(done["tokens"])[:, None])[:, 0]
    off = (torch.tensor(done["logprobs"]) - chosen).abs().max()
    return float(off.nan_to_num(nan=torch.inf))


def _from_vector(model: Any) -> Callable[[list[int], list[float]], float]:
    def off(prompt: list[int], vector: list[float]) -> float:
        with torch.no_grad():
            state = model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        expected = torch.nn.functional.normalize(state, dim=0)
        found = 1 - torch.dot(torch.tensor(vector), expected)
        return float(found.nan_to_num(nan=torch.inf))

    return off


def _from_classes(model: Any) -> Callable[[list[int], list[float]], float]:
    def off(prompt: list[int], probabilities: list[float]) -> float:
        with torch.no_grad():
            expected = model(torch.tensor([prompt])).logits[0].softmax(-1)
        found = (torch.tensor(probabilities) - expected).abs().max()
        return float(found.nan_to_num(nan=torch.inf))

    return off
