# SPDX-License-Identifier: Apache-2.0
"""The examples, as a user runs them."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import httpx
import pytest

from tests.serving.programs import ROOT, environment
from tests.serving.server import EXAMPLE, Server
from tests.stranger import Stranger


def rerank(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples/rerank.py"), *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def reranked() -> subprocess.CompletedProcess[str]:
    """Return the main job's output."""
    return rerank()


@pytest.mark.slow
def test_rerank_ranks_the_right_passage_first(
    reranked: subprocess.CompletedProcess[str],
) -> None:
    """Catches the main job failing, printing noise, or not fitting 80 columns."""
    done = reranked
    assert done.returncode == 0, done.stderr
    assert "Platform:  Virtual Intel GPU (software)" in done.stdout
    assert "24 linear layers" in done.stdout
    assert "\x1b" not in done.stdout, "no colour in a pipe"
    assert max(map(len, done.stdout.splitlines())) <= 80
    best = re.findall(r"^ +1 │ +[\d.]+ │ (.*?) *$", done.stdout, re.MULTILINE)
    assert len(best) == 12
    assert best[0] == "The capital of France is Paris."
    assert best[6].startswith("Clicking noises")
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.slow
def test_readme_shows_what_rerank_prints(
    reranked: subprocess.CompletedProcess[str],
) -> None:
    """Catches a transcript that is not one; scores may differ by rounding."""
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"```text\n(Platform:.*?)```", readme, re.DOTALL)
    assert shown
    score = re.compile(r"(?<=│ )\d\.\d{3}(?= │)")
    expected = shown[1].splitlines()
    printed = [x.rstrip() for x in reranked.stdout.splitlines()][: len(expected)]
    assert [score.sub("", x) for x in printed] == [score.sub("", x) for x in expected]
    scores = [
        [float(s) for s in score.findall("\n".join(x))] for x in (printed, expected)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


@pytest.mark.slow
def test_rerank_takes_query_and_documents(tmp_path: Path, minilm: str) -> None:
    """Catches arguments that are not used, and texts and modules that are obeyed."""
    stranger = Stranger(tmp_path / "stranger")
    documents = stranger.folder / "documents.jsonl"
    cat, rain = "A cat sleeps \x1b[2J[red].", "It rains a lot."
    documents.write_text(
        "\n\n".join(json.dumps({"text": text}) for text in (cat, rain))
    )
    done = rerank(
        *("--model", minilm, "--query", "[red]weather"),
        *("--documents", "documents.jsonl"),
        folder=stranger.folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("It rains") < done.stdout.index("A cat sleeps [red].")
    assert "[red]weather" in done.stdout
    assert stranger.has_run() == []


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (["--query", "q"], None, "--query and --documents go together"),
        (["--query", " ", "--documents", "FILE"], '{"text": "a"}', "--query is empty"),
        (["--query", "q", "--documents", "FILE"], None, "cannot read"),
        (["--query", "q", "--documents", "FILE"], "", "no documents"),
        (["--query", "q", "--documents", "FILE"], '{"text": ""}', "document 1 has no"),
        (["--query", "q", "--documents", "FILE"], '{"text": 3}', "document 1 has no"),
        (["--query", "q", "--documents", "FILE"], '{"text": "a"}\n{', "jsonl:2: not J"),
        (["--query", "q", "--documents", "FILE"], "[1]", "JSON object is needed"),
        (["--model", "./no/such/folder"], None, "no such folder"),
    ],
)
def test_rerank_bad_input_ends_with_one_line(
    arguments: list[str], content: str | None, message: str, tmp_path: Path
) -> None:
    """Catches a traceback, or an engine started for input that cannot work."""
    file = tmp_path / "d.jsonl"
    if content is not None:
        file.write_text(content)
    done = rerank(*(str(file) if a == "FILE" else a for a in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start examples/serve.sh on a free port and return its address.

    In a stranger's folder: it fails where a module of that runs.
    """
    folder = tmp_path_factory.mktemp("server")
    stranger = Stranger(folder / "stranger")
    with Server(EXAMPLE, log=folder / "log", cwd=stranger.folder) as running:
        yield running.ready().url
        assert stranger.has_run() == []


@pytest.mark.slow
def test_cohere_client_gets_a_ranking_from_the_server(server: str) -> None:
    """Catches a server that does not answer as Cohere's SDK expects."""
    done = subprocess.run(
        [sys.executable, "examples/client.py", "--url", server],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "What is the capital of France?"
    assert lines[1].endswith("The capital of France is Paris.")
    assert len(lines) == 5


@pytest.mark.slow
def test_server_answers_bad_requests_with_a_4xx(server: str) -> None:
    """Catches an engine that dies of a bad request."""
    for body in (
        {"model": "reranker", "query": "q", "documents": []},
        {"model": "other", "query": "q", "documents": ["a"]},
        {"model": "reranker", "documents": ["a"]},
    ):
        response = httpx.post(f"{server}/v2/rerank", json=body, timeout=60)
        assert 400 <= response.status_code < 500, (body, response.text)
    assert httpx.get(f"{server}/health", timeout=60).status_code == 200


@pytest.mark.slow
def test_server_answers_240_requests_at_a_time(
    server: str, pairs: list[tuple[str, list[str]]]
) -> None:
    """Catches requests that get another's answer, or none, once many are in flight."""

    async def ask(client: httpx.AsyncClient, i: int) -> list[float]:
        query, documents = pairs[i % len(pairs)]
        body = {"model": "reranker", "query": query, "documents": documents}
        response = await client.post(f"{server}/v2/rerank", json=body)
        response.raise_for_status()
        results = response.json()["results"]
        return [x["relevance_score"] for x in sorted(results, key=itemgetter("index"))]

    async def ask_all(count: int, at_a_time: int) -> list[list[float]]:
        limits = httpx.Limits(max_connections=at_a_time)
        async with httpx.AsyncClient(timeout=240, limits=limits) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(count)))

    alone = asyncio.run(ask_all(len(pairs), 1))
    for i, scores in enumerate(asyncio.run(ask_all(240, 240))):
        assert scores == pytest.approx(alone[i % len(pairs)], abs=0.005)


def test_client_without_a_server_says_so() -> None:
    """Catches a traceback where the server is down."""
    done = subprocess.run(
        [sys.executable, "examples/client.py", "--url", "http://127.0.0.1:9"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Is the server up?" in done.stderr
    assert "Traceback" not in done.stderr


def ready(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the readiness probe, with a Python that has no package."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "examples/ready.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_readiness_needs_the_recorded_scores(server: str, tmp_path: Path) -> None:
    """Catches a probe that is content with any answer, as a health check is."""
    file = tmp_path / "scores.json"
    here = ("--url", server, "--model", "reranker")
    done = ready(*here, "--record", str(file))
    assert done.returncode == 0, done.stderr
    assert ready(*here, "--expected", str(file)).returncode == 0
    scores = json.loads(file.read_text())
    for wrong in ([scores[0] - 0.1, *scores[1:]], [float("nan"), *scores[1:]]):
        file.write_text(json.dumps(wrong))
        done = ready(*here, "--expected", str(file))
        assert done.returncode == 1
        assert "allowed is 0.02" in done.stderr
    file.write_text(json.dumps(scores[:2]))
    assert "another query" in ready(*here, "--expected", str(file)).stderr
    done = ready("--url", server, "--model", "no", "--expected", str(file))
    assert (done.returncode, done.stdout) == (2, "")


def test_readiness_without_a_server_is_not_ready() -> None:
    """Catches a traceback, which an orchestrator would log as the reason."""
    for url in ("http://127.0.0.1:9", "nonsense"):
        done = ready("--url", url, "--expected", "scores.json")
        assert done.returncode == 2
        assert done.stderr.startswith("not ready: ")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_metrics_that_the_page_names_are_there(server: str) -> None:
    """Catches a metric that this vLLM does not have."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    named = re.findall(r"^\| `((?:vllm:|process_)\w+)` \|", page, re.MULTILINE)
    assert len(named) >= 5
    metrics = httpx.get(f"{server}/metrics", timeout=60).text
    for name in named:
        assert re.search(rf"^# TYPE {name} ", metrics, re.MULTILINE), name
