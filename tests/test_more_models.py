# SPDX-License-Identifier: Apache-2.0
"""Architectures and formats beyond encoders and plain decoders, an engine each.

Small models with random weights in vLLM on the virtual XPU, against transformers in
float32, which knows what a packed weight stands for. `make models` runs them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.auto_round_model import quantized
from tests.engine import run_engine
from tests.models import make_model, quantize_checkpoint, token_ids
from tests.packed_models import minicpm, pack

pytestmark = [pytest.mark.slow, pytest.mark.models]

PROMPTS = token_ids([1, 40, 70])
HALF: dict[str, Any] = {"dtype": "float16"}
FP8: dict[str, Any] = {**HALF, "quantization": "fp8"}
FP8_CACHE: dict[str, Any] = {**HALF, "kv_cache_dtype": "fp8"}


def generated(folder: str, options: dict[str, Any], **more: Any) -> list[Any]:
    """Return each prompt's tokens and their logprobs."""
    given = {"max_model_len": 256, "enforce_eager": True, "skip_tokenizer_init": True}
    result = run_engine(
        llm={"model": folder, **given, **options},
        prompts=PROMPTS,
        sampling={"max_tokens": 6},
        **more,
    )
    assert result["error"] is None, result["error"]
    done: list[Any] = result["out"]
    return done


def drift(model: Any, prompt: list[int], done: Any) -> float:
    """Return how far the logprobs of what was chosen are from the model's, in nats."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + done["tokens"]])).logits[0]
    reference = logits[len(prompt) - 1 : -1].log_softmax(-1)
    chosen = reference.gather(1, torch.tensor(done["tokens"])[:, None])[:, 0]
    off = (torch.tensor(done["logprobs"]) - chosen).abs().max()
    return float(off.nan_to_num(nan=torch.inf))


def loaded(folder: str) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    )
    return model.eval()


def worst(folder: str, done: list[Any]) -> float:
    model = loaded(folder)
    pairs = zip(PROMPTS, done, strict=True)
    return max(drift(model, prompt, result) for prompt, result in pairs)


@pytest.mark.parametrize(
    "architecture, options, allowed",
    [
        # A router's two best experts may change places in half precision.
        ("Qwen3MoeForCausalLM", HALF, 0.3),
        ("MixtralForCausalLM", HALF, 0.05),
        ("DeepseekV2ForCausalLM", HALF, 0.05),
        ("DeepseekV2ForCausalLM", FP8_CACHE, 0.25),
        ("Qwen3NextForCausalLM", HALF, 0.05),
    ],
)
def test_architecture_agrees_with_transformers(
    architecture: str, options: dict[str, Any], allowed: float, tmp_path: Path
) -> None:
    """Catches an expert, a state or a latent that is another's."""
    folder = make_model(architecture, tmp_path / "model")
    assert worst(folder, generated(folder, options)) <= allowed


def round_to_fp8(model: Any) -> None:
    """Give a model the weights that vLLM makes of its own at load time.

    A scale for what vLLM multiplies by at once: queries, keys and values, and each
    expert's gate and up projections.
    """
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


def _round(weight: torch.Tensor, scale: torch.Tensor) -> None:
    weight.copy_((weight / scale).to(torch.float8_e4m3fn).float() * scale)


@pytest.mark.parametrize("architecture", ["Qwen3MoeForCausalLM", "MixtralForCausalLM"])
def test_experts_quantised_at_load_time(architecture: str, tmp_path: Path) -> None:
    """Catches an expert's scale that is another's, or of both projections apart."""
    folder = make_model(architecture, tmp_path / "model")
    done = generated(folder, FP8)
    model = loaded(folder)
    round_to_fp8(model)
    pairs = zip(PROMPTS, done, strict=True)
    assert max(drift(model, prompt, result) for prompt, result in pairs) <= 0.35


def test_experts_of_a_block_fp8_checkpoint(tmp_path: Path) -> None:
    """Catches block scales of an expert that are transposed."""
    # Of the op's blocks there have to be two or more along a row.
    sizes = {"hidden_size": 256, "head_dim": 64, "num_key_value_heads": 4}
    # Both experts of each token, so that none changes places with another.
    sizes |= {"moe_intermediate_size": 256, "num_experts": 2}
    source = make_model("Qwen3MoeForCausalLM", tmp_path / "model", **sizes)
    # Blocks of one expert that differ, so that a scale of another one shows.
    path = Path(source) / "model.safetensors"
    weights = load_file(path)
    for name, weight in weights.items():
        if "experts" in name:
            weight[:128] *= 0.125
    save_file(weights, path, {"format": "pt"})
    quantised, plain = quantize_checkpoint(source, tmp_path, "block")
    assert worst(plain, generated(quantised, HALF)) <= 0.3


@pytest.mark.parametrize("kind", ["gptq", "auto-round"])
def test_int4_weights_agree_with_what_they_stand_for(kind: str, tmp_path: Path) -> None:
    """Catches a zero point that is off by one, or a group's scale for another's."""
    source = make_model("LlamaForCausalLM", tmp_path / "model")
    packed, plain = pack(source, tmp_path, kind)
    assert worst(plain, generated(packed, HALF)) <= 0.05


def test_a_checkpoint_of_auto_round_agrees_with_what_it_stands_for(
    tmp_path: Path,
) -> None:
    """Catches a checkpoint that only our own packing makes."""
    source = make_model("LlamaForCausalLM", tmp_path / "model")
    packed, plain = quantized(source, tmp_path)
    assert worst(plain, generated(packed, HALF)) <= 0.05


def test_mxfp4_experts_agree_with_what_they_stand_for(tmp_path: Path) -> None:
    """Catches halves of a byte swapped, or a scale along the wrong axis."""
    source = make_model("GptOssForCausalLM", tmp_path / "model")
    packed, plain = pack(source, tmp_path, "mxfp4")
    assert worst(plain, generated(packed, {"dtype": "bfloat16"})) <= 0.4


def test_minicpm_quantised_at_load_time(tmp_path: Path) -> None:
    """Catches FP8 that changes what the model's constants multiply (vLLM #39862)."""
    source = make_model("LlamaForCausalLM", tmp_path / "model")
    folder, plain = minicpm(source, tmp_path)
    assert worst(plain, generated(folder, HALF)) <= 0.05
    assert worst(plain, generated(folder, FP8)) <= 0.5


def test_two_adapters_at_a_time(tmp_path: Path) -> None:
    """Catches a request that gets the adapter of another."""
    peft = pytest.importorskip("peft")
    source = make_model("LlamaForCausalLM", tmp_path / "model")
    quantised, plain = quantize_checkpoint(source, tmp_path, "channel")
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=["q_proj", "v_proj", "down_proj"],
            init_lora_weights=False,
        )
        folders.append(str(tmp_path / f"adapter{seed}"))
        peft.get_peft_model(loaded(plain), config).save_pretrained(folders[-1])
    chosen = [folders[0], folders[1], folders[0]]
    options = {**HALF, "enable_lora": True, "max_loras": 2, "max_lora_rank": 8}
    done = generated(quantised, options, adapters=chosen)
    models = [peft.PeftModel.from_pretrained(loaded(plain), f) for f in folders]
    for i, which in enumerate((0, 1, 0)):
        own = drift(models[which], PROMPTS[i], done[i])
        others = drift(models[1 - which], PROMPTS[i], done[i])
        assert own <= 0.3 and others > 2 * own


def test_embeddings_of_a_decoder(tmp_path: Path) -> None:
    """Catches another token's state than the last one's, or a causal mask left out."""
    folder = make_model("Qwen3ForCausalLM", tmp_path / "model")
    result = run_engine(
        llm={"model": folder, "runner": "pooling", "max_model_len": 256, **HALF},
        embed=PROMPTS,
    )
    assert result["error"] is None, result["error"]
    model = loaded(folder).model
    for prompt, vector in zip(PROMPTS, result["out"], strict=True):
        with torch.no_grad():
            state = model(torch.tensor([prompt])).last_hidden_state[0, -1]
        expected = torch.nn.functional.normalize(state, dim=0)
        cosine = torch.dot(torch.tensor(vector), expected)
        assert cosine > 0.999


def test_classes_of_a_decoder(tmp_path: Path) -> None:
    """Catches a reranker's head on another token than the last one."""
    folder = make_model("Qwen3ForSequenceClassification", tmp_path / "model")
    result = run_engine(
        llm={"model": folder, "runner": "pooling", "max_model_len": 256, **HALF},
        classify=PROMPTS,
    )
    assert result["error"] is None, result["error"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    for prompt, probabilities in zip(PROMPTS, result["out"], strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([prompt])).logits[0].softmax(-1)
        off = (torch.tensor(probabilities) - expected).abs().max()
        assert off < 0.01
