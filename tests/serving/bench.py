# SPDX-License-Identifier: Apache-2.0
"""Load at given rates, by vLLM's own ``vllm bench serve``."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.serving.programs import BIN, environment
from tests.serving.traffic import MODEL

# Documents a request, and tokens of a query and one of them.
_DOCUMENTS, _TOKENS = 4, 64
_TIMEOUT = 300


def load(url: str, tokenizer: str, rate: float, requests: int) -> dict[str, Any]:
    """Send reranking requests at a rate and return what the tool counts.

    Args:
        url: The server's.
        tokenizer: Folder of the model's.
        rate: Requests a second, at random times (Poisson); infinite: all at once.
        requests: How many.

    Raises:
        RuntimeError: The tool failed, or took five minutes.

    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(str(BIN / "vllm"), "bench", "serve", "--backend", "vllm-rerank"),
            *("--base-url", url, "--endpoint", "/v1/rerank", "--model", MODEL),
            *("--tokenizer", tokenizer, "--dataset-name", "random-rerank"),
            *("--random-input-len", str(_TOKENS)),
            *("--random-batch-size", str(_DOCUMENTS)),
            *("--num-prompts", str(requests * _DOCUMENTS)),
            *("--request-rate", str(rate), "--disable-tqdm"),
            *("--num-warmups", "20"),
            *("--percentile-metrics", "e2el", "--metric-percentiles", "99"),
            *("--save-result", "--save-detailed"),
            *("--result-dir", folder, "--result-filename", "result.json"),
        ]
        # An interpreter of its own, which no plugin needs to look for devices.
        done = subprocess.run(
            [sys.executable, *command],
            env=environment(),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        file = Path(folder) / "result.json"
        if done.returncode or not file.exists():
            raise RuntimeError(f"vllm bench serve failed:\n{done.stderr[-2000:]}")
        result = json.loads(file.read_text())
    errors = Counter(error for error in result["errors"] if error)
    return {
        "rate": result["request_rate"],
        "requests": result["completed"] + sum(errors.values()),
        "failed": sum(errors.values()),
        "errors": dict(errors.most_common(3)),
        "requests_per_s": result["request_throughput"],
        "median_ms": result["median_e2el_ms"],
        "p99_ms": result["p99_e2el_ms"],
    }


def rising(url: str, tokenizer: str, seconds: float, say: Any) -> dict[str, Any]:
    """Find what the server can do, go up to it and to twice as much, and back.

    Args:
        url: The server's.
        tokenizer: Folder of the model's.
        seconds: Each rate is held so long.
        say: Gets a line for each rate.

    """
    most = load(url, tokenizer, float("inf"), 200)
    capacity = most["requests_per_s"]
    say(f"all at once: {capacity:.1f} requests/s")
    steps = []
    for part in (0.25, 0.5, 1.0, 2.0, 0.25):
        rate = part * capacity
        step = load(url, tokenizer, rate, max(20, round(rate * seconds)))
        steps.append({"part": part, **step})
        say(
            f"{rate:.1f} requests/s asked, {step['requests_per_s']:.1f} answered, "
            f"median {step['median_ms']:.0f} ms, {step['failed']} failed"
        )
    return {"capacity": capacity, "all_at_once": most, "steps": steps}
