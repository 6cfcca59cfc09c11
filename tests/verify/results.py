# SPDX-License-Identifier: Apache-2.0
"""Makes results of arms without an engine, for the tests of what judges them."""

import copy
from typing import Any

import numpy as np

ARM = {
    "platform": "EmulatedXPUPlatform",
    "device": "Emulated Intel XPU (software)",
    "emulated": True,
    "dtype": "float16",
    "quantization": None,
    "kv_cache_dtype": "auto",
    "tensor_parallel_size": 1,
    "max_model_len": 512,
    "versions": {"vllm": "0"},
    "fp8": {
        "layers": 24,
        "layers_fp8": 24,
        "layers_other": 0,
        "weights": 22_000_000,
        "weights_fp8": 10_000_000,
        "caches": 0,
        "caches_fp8": 0,
    },
}
LENGTHS = (*range(1, 66), 69, 133, 191, 197, 261, 325, 389, 512)


def speed(unit: str) -> dict[str, Any]:
    return {
        "unit": unit,
        "throughput": 10.0,
        "latency_s": 0.1,
        "peak_memory_bytes": 1 << 30,
    }


def pooling(task: str, rankings: int = 12, width: int = 8) -> dict[str, Any]:
    """Return a reference's result: random scores, vectors or probabilities."""
    rng = np.random.default_rng(0)
    documents = [[f"d{r}.{i}" for i in range(8)] for r in range(rankings)]
    grades = [rng.integers(0, 4, 8).tolist() for _ in range(rankings)]
    work: dict[str, Any] = {
        "task": task,
        "page": 64,
        "rankings": [
            {"query": f"q{r}", "documents": d, "relevance": g}
            for r, (d, g) in enumerate(zip(documents, grades, strict=True))
        ],
        "lengths": [[0] * n for n in LENGTHS],
        "alone": [0, 1],
    }
    if task == "score":
        work["items"] = [[f"q{r}", d] for r, ds in enumerate(documents) for d in ds]
        shape = 1
    else:
        work["items"] = [t for r, ds in enumerate(documents) for t in (f"q{r}", *ds)]
        shape = width
    if task == "classify":
        work["rankings"] = []

    def answers(count: int) -> Any:
        x = rng.normal(size=(count, shape))
        if task == "score":
            return 1 / (1 + np.exp(-x))
        if task == "classify":
            return np.exp(3 * x) / np.exp(3 * x).sum(axis=1, keepdims=True)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    items = answers(len(work["items"])).tolist()
    return {
        **ARM,
        "plan": work,
        "items": items,
        "lengths": answers(len(work["lengths"])).tolist(),
        "probes": answers(0 if task == "embed" else 16).tolist(),
        "alone": copy.deepcopy(items[:2]),
        "speed": speed("items/s"),
    }


def generation(prompts: int = 12, tokens: int = 16) -> dict[str, Any]:
    """Return a reference's result: random tokens with their logprobs."""
    rng = np.random.default_rng(0)

    def row(count: int) -> dict[str, Any]:
        ids = [int(x) for x in rng.permutation(100)[:count]]
        lead = -rng.exponential(1, size=count) - 0.01
        return {
            "tokens": ids,
            "logprobs": lead.tolist(),
            "top": [
                [[t, float(x)], [(t + 1) % 100, float(x) - 0.3], [200, float(x) - 5]]
                for t, x in zip(ids, lead, strict=True)
            ],
            "text": "",
        }

    items = [row(tokens) for _ in range(prompts)]
    work = {
        "task": "generate",
        "page": 64,
        "rankings": [],
        "items": [[1, 2, 3]] * prompts,
        "lengths": [[0] * n for n in LENGTHS],
        "alone": [0, 1],
        "forced": [[1, 2, 3, *r["tokens"]] for r in items],
        "starts": [3] * prompts,
    }
    own = [list(r["logprobs"]) for r in items]
    return {
        **ARM,
        "plan": work,
        "items": items,
        "lengths": [row(1) for _ in work["lengths"]],
        "alone": copy.deepcopy(items[:2]),
        "own": own,
        "forced": [[-1.0, -1.0, *r] for r in own],
        "speed": speed("tokens/s"),
    }
