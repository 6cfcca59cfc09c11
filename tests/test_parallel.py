# SPDX-License-Identifier: Apache-2.0
"""The virtual XPU on several workers: processes of vLLM's own, and Ray's actors."""

from typing import Any

import pytest

from tests.engine import run_engine

pytestmark = pytest.mark.slow

PAIRS = [
    (
        "What is the capital of France?",
        ["The capital of Brazil is Brasilia.", "The capital of France is Paris."],
    )
]


@pytest.fixture(scope="module")
def single(minilm: str) -> list[float]:
    """Scores of one worker."""
    llm = {"model": minilm, "runner": "pooling", "quantization": "fp8"}
    scores: list[float] = run_engine(llm=llm, pairs=PAIRS)["out"][0]
    return scores


@pytest.mark.parametrize("executor", ["mp", "ray"])
def test_two_workers_give_the_scores_of_one(
    executor: str, minilm: str, single: list[float]
) -> None:
    """Catches workers without the plugin, and shards with the other's scales."""
    llm: dict[str, Any] = {
        "model": minilm,
        "runner": "pooling",
        "quantization": "fp8",
        "tensor_parallel_size": 2,
        "distributed_executor_backend": executor,
    }
    result = run_engine(llm=llm, pairs=PAIRS)
    assert result["error"] is None, result["log"][-3000:]
    assert result["out"][0] == pytest.approx(single, abs=0.003)
