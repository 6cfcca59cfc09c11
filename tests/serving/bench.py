# SPDX-License-Identifier: Apache-2.0
"""Load at given rates, by the code of vLLM's own ``vllm bench serve``.

    python -m tests.serving.bench URL TOKENIZER SECONDS

imports vLLM once for all rates, and prints the figures as JSON in its last line.
"""

import contextlib
import json
import subprocess
import sys
from collections import Counter
from typing import Any

from tests.serving.programs import ROOT, environment
from tests.serving.traffic import MODEL

# Documents a request, and tokens of a query and one of them.
_DOCUMENTS, _TOKENS = 4, 64
# Seconds for all rates.
_TIMEOUT = 900


def run(url: str, tokenizer: str, seconds: float) -> dict[str, Any]:
    """Return what `rising` does, in an interpreter of its own.

    Nothing that the caller does is part of a latency there. No plugin is called, none
    is needed to ask a server, nor a device.

    Raises:
        RuntimeError: It failed, or took a quarter of an hour.

    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.bench", url, tokenizer, str(seconds)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
    )
    if done.returncode:
        raise RuntimeError(f"tests.serving.bench failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rising(url: str, tokenizer: str, seconds: float) -> dict[str, Any]:
    """Find what the server can do, go up to it and to twice as much, and back.

    Args:
        url: The server's.
        tokenizer: Folder of the model's.
        seconds: Each rate is held so long.

    """
    most = load(url, tokenizer, float("inf"), 200)
    capacity = most["requests_per_s"]
    steps = []
    for part in (0.25, 0.5, 1.0, 2.0, 0.25):
        rate = part * capacity
        step = load(url, tokenizer, rate, max(20, round(rate * seconds)))
        steps.append({"part": part, **step})
    return {"capacity": capacity, "all_at_once": most, "steps": steps}


def load(url: str, tokenizer: str, rate: float, requests: int) -> dict[str, Any]:
    """Send reranking requests at a rate and return what the tool counts.

    Args:
        url: The server's.
        tokenizer: Folder of the model's.
        rate: Requests a second, at random times (Poisson); infinite: all at once.
        requests: How many.

    """
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    arguments = parser.parse_args(
        [
            *("--backend", "vllm-rerank", "--base-url", url),
            *("--endpoint", "/v1/rerank", "--model", MODEL),
            *("--tokenizer", tokenizer, "--dataset-name", "random-rerank"),
            *("--random-input-len", str(_TOKENS)),
            *("--random-batch-size", str(_DOCUMENTS)),
            *("--num-prompts", str(requests * _DOCUMENTS)),
            *("--request-rate", str(rate), "--disable-tqdm"),
            *("--num-warmups", "20", "--save-detailed"),
            *("--percentile-metrics", "e2el", "--metric-percentiles", "99"),
        ]
    )
    result = serve.main(arguments)
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


if __name__ == "__main__":
    # The tool prints its own tables.
    with contextlib.redirect_stdout(sys.stderr):
        figures = rising(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    print(json.dumps(figures))
