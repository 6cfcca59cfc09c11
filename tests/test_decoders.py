# SPDX-License-Identifier: Apache-2.0
"""Decoders on the virtual XPU agree with transformers in float32.

Logprobs are compared on the tokens that vLLM chose, so that one close call does
not make all that follows incomparable.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.engine import run_engine
from tests.models import make_model, quantize_checkpoint, token_ids
from tests.real_models import real_model

pytestmark = pytest.mark.slow

# With pages of 64 tokens: about them, chunked (64 tokens a step), more than fit into
# the pages at a time, and three that begin with the same two pages.
SHARED = token_ids([128])[0]
PROMPTS = [
    *token_ids([1, 7, 63, 64, 65, 150]),
    *([*SHARED, *rest] for rest in token_ids([1, 30, 64])),
]
TIGHT = {
    "max_model_len": 256,
    "max_num_batched_tokens": 64,
    "enable_chunked_prefill": True,
    "block_size": 64,
    "num_gpu_blocks_override": 9,
}
TEXTS = [
    "The capital of France is",
    "A recipe for bread: take flour, water, salt and",
    "To find the largest number in a list, one can",
    "Winter in the mountains is long. The people who live there",
]


def drift(folder: str, done: list[dict[str, Any]]) -> tuple[float, float]:
    """Return how far vLLM's logprobs are from transformers', and its choices from best.

    Both in nats: the largest difference of a chosen token's logprob, and the largest
    by which a chosen token's logprob is below the best one's, in transformers.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    of_logprob = of_choice = 0.0
    for prompt, result in zip(PROMPTS, done, strict=True):
        tokens = torch.tensor(result["tokens"])
        with torch.no_grad():
            logits = model(torch.tensor([prompt + result["tokens"]])).logits[0]
        reference = logits[len(prompt) - 1 : -1].log_softmax(-1)
        chosen = reference.gather(1, tokens[:, None])[:, 0]
        ours = torch.tensor(result["logprobs"])
        of_logprob = max(of_logprob, float((ours - chosen).abs().max()))
        best = reference.max(dim=-1).values
        of_choice = max(of_choice, float((best - chosen).max()))
    return of_logprob, of_choice


@pytest.mark.parametrize(
    ("architecture", "dtype", "kv_cache_dtype", "limit"),
    [
        # Nats; measured: 0.051, 0.204, 0.032 and 0.005.
        ("LlamaForCausalLM", "bfloat16", "auto", 0.1),
        ("LlamaForCausalLM", "bfloat16", "fp8", 0.4),
        ("Qwen3ForCausalLM", "bfloat16", "auto", 0.1),
        ("LlamaForCausalLM", "float16", "auto", 0.01),
        ("Qwen3ForCausalLM", "float16", "auto", 0.01),
    ],
)
def test_decoder_agrees_with_transformers(
    architecture: str, dtype: str, kv_cache_dtype: str, limit: float, tmp_path: Path
) -> None:
    """Catches wrong pages, positions, chunks, cached prefixes or resumed sequences."""
    model = make_model(architecture, tmp_path / "model")
    llm = {"model": model, "dtype": dtype, "kv_cache_dtype": kv_cache_dtype, **TIGHT}
    result = run_engine(llm=llm, prompts=PROMPTS, times=2)
    assert result["error"] is None
    assert result["preemptions"] > 0
    assert max(done["cached"] for done in result["out"]) >= 128
    assert max(drift(model, result["out"])) <= limit


def test_greedy_tokens_of_a_real_model_are_those_of_transformers() -> None:
    """Catches what a random model's flat distributions hide."""
    folder = real_model("smollm2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    llm = {"model": folder, "dtype": "float16", "max_model_len": 256}
    result = run_engine(llm=llm, prompts=prompts)
    assert result["error"] is None
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    for prompt, done in zip(prompts, result["out"], strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + done["tokens"]])).logits[0]
        assert len(done["tokens"]) == 32
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == done["tokens"]


@pytest.mark.parametrize("kind", ["channel", "block"])
def test_fp8_checkpoint_agrees_with_its_weights_in_float32(
    kind: str, tmp_path: Path
) -> None:
    """Catches scales read in another form than they were written in."""
    source = make_model(
        "LlamaForCausalLM", tmp_path / "model", hidden_size=256, num_key_value_heads=4
    )
    fp8, float32 = quantize_checkpoint(source, tmp_path, kind)
    result = run_engine(llm={"model": fp8, **TIGHT}, prompts=PROMPTS)
    assert result["error"] is None
    # FP8 activations have a relative rounding error of up to 2 ** -4 each.
    assert max(drift(float32, result["out"])) <= 0.5
