# SPDX-License-Identifier: Apache-2.0
"""vLLM engines on the virtual XPU, with real and with small random models."""

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from scipy.stats import spearmanr

from tests.engine import run_engine
from tests.models import make_model, token_ids

pytestmark = pytest.mark.slow

Pairs = list[tuple[str, list[str]]]


@pytest.fixture(scope="module")
def minilm_llm(minilm: str) -> dict[str, Any]:
    return {"model": minilm, "runner": "pooling", "quantization": "fp8"}


@pytest.fixture(scope="module")
def reference_scores(minilm: str, pairs: Pairs) -> list[list[float]]:
    """Cosine of query and passage, by transformers in float32."""
    return [
        (_embed(minilm, docs) @ _embed(minilm, [query]).T)[:, 0].tolist()
        for query, docs in pairs
    ]


def _embed(folder: str, texts: list[str]) -> torch.Tensor:
    """Return normalised mean-pooled vectors, by transformers in float32."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = _load(folder)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))


@functools.cache
def _load(folder: str) -> Any:
    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def _spearman(scores: list[list[float]], reference: list[list[float]]) -> float:
    flat = [list(itertools.chain(*rows)) for rows in (scores, reference)]
    return float(spearmanr(*flat).statistic)


def test_defect_kills_upstream_backend(
    minilm_llm: dict[str, Any], pairs: Pairs
) -> None:
    """Catches a suite that could not see the defect: vLLM before #39676 must die."""
    result = run_engine(llm=minilm_llm, pairs=pairs[:1], upstream=True, defect=True)
    assert "FA2 does not support q_descale" in str(result["error"])


def test_plugin_reranks_in_spite_of_the_defect_and_an_fp8_kv_cache(
    minilm_llm: dict[str, Any], pairs: Pairs, reference_scores: list[list[float]]
) -> None:
    """Catches descales in encoder attention, an FP8 query, and the FP8-cache error."""
    llm = {**minilm_llm, "kv_cache_dtype": "fp8"}
    result = run_engine(llm=llm, pairs=pairs, defect=True)
    assert result["error"] is None
    assert all(call["descales"] == [] for call in result["calls"])
    assert _spearman(result["out"], reference_scores) >= 0.98


def test_fp8_scores_agree_with_transformers(
    minilm_llm: dict[str, Any], pairs: Pairs, reference_scores: list[list[float]]
) -> None:
    """Catches wrong FP8 products, scales or attention of the whole path."""
    result = run_engine(llm=minilm_llm, pairs=pairs)
    assert result["error"] is None
    assert result["calls"] == [
        {
            "causal": False,
            "paged": False,
            "key_dtype": "torch.float16",
            "window_size": [-1, -1],
            "descales": [],
        }
    ]
    assert _spearman(result["out"], reference_scores) >= 0.98
    for scores, (_, documents) in zip(result["out"], pairs, strict=True):
        assert len(scores) == len(documents)


@pytest.mark.parametrize(("quantization", "least"), [(None, 0.999), ("fp8", 0.99)])
def test_embeddings_agree_with_transformers(
    quantization: str | None, least: float, minilm: str, pairs: Pairs
) -> None:
    """Catches a loss of precision that a ranking hides."""
    texts = [document for _, documents in pairs[:4] for document in documents]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    llm = {"model": minilm, "runner": "pooling", "quantization": quantization}
    result = run_engine(llm=llm, embed=ids)
    assert result["error"] is None
    ours = torch.tensor(result["out"])
    assert (ours.norm(dim=1) - 1).abs().max() < 1e-3
    assert (ours * _embed(minilm, texts)).sum(1).min() >= least


def test_upstream_refuses_an_encoder_with_an_fp8_kv_cache(
    minilm_llm: dict[str, Any], pairs: Pairs
) -> None:
    """Catches a vLLM that no longer has the error which the plugin removes (#55048)."""
    llm = {**minilm_llm, "kv_cache_dtype": "fp8"}
    result = run_engine(llm=llm, pairs=pairs[:1], upstream=True)
    assert "quantization is not supported for encoder attention" in str(result["error"])


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8"])
def test_decoder_is_token_identical_to_upstream(
    kv_cache_dtype: str, tmp_path: Path
) -> None:
    """Catches any change to decoder layers: tokens and kernel arguments must match."""
    model = make_model("LlamaForCausalLM", tmp_path / "llama")
    llm = {
        "model": model,
        "quantization": "fp8",
        "kv_cache_dtype": kv_cache_dtype,
        "max_model_len": 256,
    }
    prompts = token_ids([1, 7, 63, 64, 65, 130])
    ours = run_engine(llm=llm, prompts=prompts)
    theirs = run_engine(llm=llm, prompts=prompts, upstream=True)
    assert ours["error"] is None
    assert all(len(done["tokens"]) == 32 for done in ours["out"])
    assert ours["out"] == theirs["out"]
    assert ours["calls"] == theirs["calls"]
    assert {tuple(c["descales"]) for c in ours["calls"]} == {("k", "v")}
    is_fp8 = {"float8" in call["key_dtype"] for call in ours["calls"]}
    assert is_fp8 == {kv_cache_dtype == "fp8"}
    # As on an XPU; with the FP8 cache or without.
    assert {"rms_norm", "silu_and_mul", "rotary_embedding"} <= set(ours["custom_ops"])


@pytest.mark.parametrize("seed", [None, 3])
def test_tokens_are_sampled_of_the_likeliest(seed: int | None, tmp_path: Path) -> None:
    """Catches a sampler that fails, or ignores top_k, with a seed and without."""
    llm = {
        "model": make_model("LlamaForCausalLM", tmp_path / "llama"),
        "max_model_len": 256,
        # bf16 logits are equal often, and equal ones share the last of their ranks.
        "dtype": "float16",
    }
    sampling = {"temperature": 1.5, "top_k": 4, "top_p": 0.99, "seed": seed}
    result = run_engine(llm=llm, prompts=token_ids([5, 40]), sampling=sampling)
    assert result["error"] is None
    ranks = {rank for done in result["out"] for rank in done["ranks"]}
    assert {1, 2, 3} <= ranks <= {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("architecture", "window"),
    [
        ("XLMRobertaForSequenceClassification", None),
        ("RobertaForSequenceClassification", None),
        ("ModernBertForSequenceClassification", 8),
    ],
)
def test_encoder_architectures_agree_with_transformers(
    architecture: str, window: int | None, tmp_path: Path
) -> None:
    """Catches wrong windows, positions or ragged batches of an architecture."""
    folder = make_model(architecture, tmp_path / "model")
    inputs = token_ids([3, 17, 40, 64, 65, 200])
    llm = {
        "model": folder,
        "runner": "pooling",
        "quantization": "fp8",
    }
    result = run_engine(llm=llm, classify=inputs)
    assert result["error"] is None
    windows = {tuple(call["window_size"]) for call in result["calls"]}
    assert windows == ({(-1, -1)} if window is None else {(-1, -1), (window, window)})
    model = getattr(transformers, architecture).from_pretrained(folder).eval()
    with torch.no_grad():
        logits = torch.stack([model(torch.tensor([x])).logits[0] for x in inputs])
    expected = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(-1)
    # FP8 weights have a relative rounding error of up to 2 ** -4 each.
    assert (torch.tensor(result["out"]) - expected).abs().max() < 0.06


def test_missing_piece_fails_at_start_and_names_the_way_out(minilm: str) -> None:
    """Catches a future vLLM without the method that the plugin overrides."""
    name = "_forward_encoder_attention"
    result = run_engine(llm={"model": minilm, "runner": "pooling"}, missing=name)
    for part in (name, "vLLM 0.", "VLLM_XPU_FP8_PLUGIN=0"):
        assert part in str(result["error"])
