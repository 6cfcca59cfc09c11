# SPDX-License-Identifier: Apache-2.0
"""The short form of `make soak`: one server, some hundred requests."""

import shutil
from collections.abc import Iterator

import httpx
import pytest

from tests.serving import bad_input, clients, endurance, expected, report, traffic
from tests.serving.server import Server, serve_with

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_with(tmp_path_factory.mktemp("server") / "log") as server:
        yield server


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


def test_log_has_no_traceback_of_the_engine(server: Server) -> None:
    """Catches an engine that fails, and an API that hides it."""
    lines = server.output.splitlines()
    assert not [x for x in lines if "EngineCore" in x and "Traceback" in x]
