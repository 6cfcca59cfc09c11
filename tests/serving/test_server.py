# SPDX-License-Identifier: Apache-2.0
"""One server, examples/serve.sh: load, clients, bad input, probes, and its end.

The short form of `make soak`, and all else of `make test` that asks such a server: each
that is started costs half a minute.
"""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import httpx
import pytest

from tests.serving import (
    bad_input,
    clients,
    endurance,
    expected,
    faults,
    probe,
    report,
    traffic,
)
from tests.serving.programs import ROOT, environment
from tests.serving.server import EXAMPLE, Server
from tests.stranger import Stranger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start examples/serve.sh without an argument or a variable of the plugin's.

    In a stranger's folder: it fails where a module of that runs. The last test breaks
    it.
    """
    folder = tmp_path_factory.mktemp("server")
    stranger = Stranger(folder / "stranger")
    environ = {**probe.environment(folder), probe.FAULT: "raise:3"}
    with Server(EXAMPLE, log=folder / "log", cwd=stranger.folder, **environ) as server:
        yield server.ready()
        assert stranger.has_run() == []


def test_answers_under_load_are_those_of_requests_sent_alone(server: Server) -> None:
    """Catches an answer of another request, a lost one, a leaked file or process."""
    found = endurance.run(server, traffic.distinct_requests(60), 300, 16)
    assert found["failed"] == 0, found["failures"]
    assert found["wrong"] == 0
    assert found["requests"] == 300
    for name in ("files", "processes", "threads"):
        before, after = found[name]
        assert after <= before, name
    # Warm-up is part of so few requests; a leaked batch of 16 texts would be 100 MiB.
    assert found["mib"][1] - found["mib"][0] < 150


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_clients_get_what_float32_gives(server: Server, minilm: str) -> None:
    """Catches an answer that a client cannot read, and FP8 that is wrong."""
    found = clients.run(server.url, minilm, langchain=False)
    assert len(found) == 4
    for row in found:
        assert row["largest_difference"] <= expected.TOLERANCE, row


def test_bad_input_is_answered_as_without_the_plugin(server: Server) -> None:
    """Catches a request that ends the engine, or is a 500 with the plugin alone.

    What vLLM answers without it was recorded by `make soak`.
    """
    good = traffic.distinct_requests(8)
    before = traffic.alone(server.url, good)
    recorded = report.load()["bad_input"]["statuses_without_the_plugin"]
    assert bad_input.statuses(server.url) == recorded
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for bad in bad_input.texts(40):
            assert 200 <= bad_input.answer(client, bad).status < 500, bad
    for a, b in zip(before, traffic.alone(server.url, good), strict=True):
        assert traffic.difference(a, b) <= traffic.TOLERANCE


def test_cohere_client_gets_a_ranking_from_the_server(server: Server) -> None:
    """Catches a server that does not answer as Cohere's SDK expects."""
    done = subprocess.run(
        [sys.executable, "examples/client.py", "--url", server.url],
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


def test_server_answers_240_requests_at_a_time(
    server: Server, pairs: list[tuple[str, list[str]]]
) -> None:
    """Catches requests that get another's answer, or none, once many are in flight."""

    async def ask(client: httpx.AsyncClient, i: int) -> list[float]:
        query, documents = pairs[i % len(pairs)]
        body = {"model": "reranker", "query": query, "documents": documents}
        response = await client.post(f"{server.url}/v2/rerank", json=body)
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


def ready(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the readiness probe, with a Python that has no package."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "examples/ready.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_readiness_needs_the_recorded_scores(server: Server, tmp_path: Path) -> None:
    """Catches a probe that is content with any answer, as a health check is."""
    file = tmp_path / "scores.json"
    here = ("--url", server.url, "--model", "reranker")
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
    done = ready("--url", server.url, "--model", "no", "--expected", str(file))
    assert (done.returncode, done.stdout) == (2, "")


def test_readiness_without_a_server_is_not_ready() -> None:
    """Catches a traceback, which an orchestrator would log as the reason."""
    for url in ("http://127.0.0.1:9", "nonsense"):
        done = ready("--url", url, "--expected", "scores.json")
        assert done.returncode == 2
        assert done.stderr.startswith("not ready: ")
        assert len(done.stderr.splitlines()) == 1


def test_metrics_that_the_page_names_are_there(server: Server) -> None:
    """Catches a metric that this vLLM does not have."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    named = re.findall(r"^\| `((?:vllm:|process_)\w+)` \|", page, re.MULTILINE)
    assert len(named) >= 5
    metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
    for name in named:
        assert re.search(rf"^# TYPE {name} ", metrics, re.MULTILINE), name


def test_an_op_that_fails_ends_the_server_in_order(server: Server) -> None:
    """Catches an answer in spite of it, a wait without end, a log without a reason.

    Also an engine that failed before, and an API that hid it.
    """
    lines = server.output.splitlines()
    assert not [x for x in lines if "EngineCore" in x and "Traceback" in x]
    probe.trigger(server.folder).touch()
    response = server.ask()
    assert response.status_code == 500
    assert "EngineCore encountered an issue" in response.text
    faults.assert_ends_by(server, "UR_RESULT_ERROR_DEVICE_LOST", 0)
