# SPDX-License-Identifier: Apache-2.0
"""Clients as users have them, each held against the model in float32."""

import fcntl
import json
import subprocess
import venv
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cohere
import openai

from tests.real_models import CACHE
from tests.serving import expected
from tests.serving.programs import ROOT, environment
from tests.serving.traffic import MODEL, difference, numbers, passages

QUERY, DOCUMENTS = passages()[0]
_LANGCHAIN = "langchain-cohere==0.6.0"
# vLLM asks for a key only where --api-key is given.
_KEY = "none"


def with_cohere(url: str) -> list[float]:
    """Return the documents' scores by Cohere's SDK."""
    client = cohere.ClientV2(api_key=_KEY, base_url=url, timeout=60)
    answer = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS)
    scores = {r.index: r.relevance_score for r in answer.results}
    return [scores[i] for i in range(len(DOCUMENTS))]


def with_openai(url: str) -> list[float]:
    """Return the texts' vectors, one after another, by OpenAI's SDK."""
    with openai.OpenAI(api_key=_KEY, base_url=f"{url}/v1", timeout=60) as client:
        answer = client.embeddings.create(model=MODEL, input=[QUERY, *DOCUMENTS])
    return [x for item in answer.data for x in item.embedding]


def with_langchain(url: str) -> list[float]:
    """Return the documents' scores by LangChain, in an environment of its own."""
    script = ROOT / "tests" / "serving" / "langchain_client.py"
    python = str(_environment("langchain", _LANGCHAIN))
    command = [python, "-I", str(script), url, MODEL, QUERY, *DOCUMENTS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment()
    )
    if done.returncode:
        raise RuntimeError(f"LangChain's client failed:\n{done.stderr[-2000:]}")
    scores: list[float] = json.loads(done.stdout)
    return scores


def with_curl(url: str, path: str, **body: Any) -> list[float]:
    """Return the numbers of a route's answer by curl."""
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail-with-body"),
            *("--max-time", "60", "--header", "Content-Type: application/json"),
            *("--data-binary", json.dumps({"model": MODEL, **body}), f"{url}{path}"),
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    if done.returncode:
        raise RuntimeError(f"curl of {path} failed: {done.stderr}{done.stdout[:500]}")
    return numbers(json.loads(done.stdout))


def run(url: str, model: str, langchain: bool) -> list[dict[str, Any]]:
    """Ask a server of an embedder with each client.

    Args:
        url: The server's.
        model: Folder of its model.
        langchain: Whether LangChain is asked too, which is downloaded once.

    Returns:
        For each client its name, the route, how many numbers it got, and the largest
        difference from float32.

    """
    scores = expected.scores(model, QUERY, DOCUMENTS)
    texts = [QUERY, *DOCUMENTS]
    vectors = expected.vectors(model, texts).flatten().tolist()
    one = vectors[: len(vectors) // len(texts)]
    asked: list[tuple[str, str, Callable[[], list[float]], Sequence[float]]] = [
        (f"cohere {version('cohere')}", "/v2/rerank", lambda: with_cohere(url), scores),
        (
            *(f"openai {version('openai')}", "/v1/embeddings"),
            *(lambda: with_openai(url), vectors),
        ),
        (
            *("curl", "/score"),
            lambda: with_curl(url, "/score", text_1=QUERY, text_2=DOCUMENTS),
            scores,
        ),
        (
            *("curl", "/pooling"),
            lambda: with_curl(url, "/pooling", input=QUERY, task="embed"),
            one,
        ),
    ]
    if langchain:
        name = _LANGCHAIN.replace("==", " ")
        asked.insert(2, (name, "/v2/rerank", lambda: with_langchain(url), scores))
    return [_row(*row) for row in asked]


def classify(url: str, model: str, texts: Sequence[str]) -> dict[str, Any]:
    """Ask a server of a classifier for the texts' probabilities."""
    true = [p for row in expected.probabilities(model, texts) for p in row]
    ask = lambda: with_curl(url, "/classify", input=list(texts))  # noqa: E731
    return _row("curl", "/classify", ask, true)


def _row(
    name: str, route: str, ask: Callable[[], list[float]], true: Sequence[float]
) -> dict[str, Any]:
    got = ask()
    return {
        "client": name,
        "route": route,
        "numbers": len(got),
        "largest_difference": difference(got, true),
    }


def _environment(name: str, requirement: str) -> Path:
    """Return the Python of an environment with a package, made if it is not there."""
    folder = CACHE / name
    CACHE.mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            venv.create(folder, clear=True, with_pip=True)
            install = [python, "-m", "pip", "install", "--quiet", requirement]
            subprocess.run(install, check=True, timeout=300)
            (folder / "made").touch()
    return python
