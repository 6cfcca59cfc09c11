# SPDX-License-Identifier: Apache-2.0
"""What a server gives, logs and leaves when something breaks below it.

Each server answers before, with the plugin in each of its processes; what follows has a
bound in time, no answer is wrong, no process is left, and the next server starts on the
same port. test_processes.py has data parallel servers, test_disk.py faults of files.
"""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving import faults, probe
from tests.serving.faults import Load
from tests.serving.server import Server, Start

pytestmark = [pytest.mark.slow, pytest.mark.soak]

TENSOR = ("--tensor-parallel-size", "2")


def leave(server: Server, times: int) -> None:
    """Ask and go away before the answer; every third time amid the request."""
    body = json.dumps(
        {"model": "reranker", "query": "q", "documents": ["many words " * 40] * 8}
    ).encode()
    head = f"POST /v2/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    for i in range(times):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as s:
            s.sendall(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode())
            s.sendall(body[: len(body) // 2] if i % 3 == 2 else body)
            # Into the engine, or not yet.
            time.sleep(0.1 * (i % 2))


def unfinished(server: Server) -> float:
    """Return how many requests the engine has, by its own metrics."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    lines = [line for line in text.splitlines() if line.startswith(names)]
    assert len(lines) == 2, text
    return sum(float(line.split()[-1]) for line in lines)


def test_clients_that_leave_and_a_sigterm_under_load(start: Start) -> None:
    """Catches requests that stay in the engine, and a server that does not go.

    Also an API server or a worker without the plugin, and what is said twice.
    """
    with start(*TENSOR, "--api-server-count", "2") as server:
        scores = server.ready().scores()
        kinds = ("APIServer_0", "APIServer_1", "EngineCore", "Worker_TP0", "Worker_TP1")
        for kind in kinds:
            assert server.named(kind), kind
        probe.assert_active_in_each(server, 1 + len(kinds))
        leave(server, 12)
        end = time.monotonic() + 60
        while unfinished(server):
            assert time.monotonic() < end, "requests of clients that left are kept"
            time.sleep(0.5)
        # Each API server gets some of these.
        for _ in range(8):
            assert server.scores() == pytest.approx(scores, abs=faults.TOLERANCE)
        with Load(server, timeout=faults.PATIENCE) as load:
            load.wait_for(16)
            server.terminate()
            faults.assert_ends_by(server, "Shutting down", 0)
        for answer in load.scores:
            assert answer == pytest.approx(scores, abs=faults.TOLERANCE)
        assert set(load.failures) <= faults.ASKED_TO_END


def test_op_that_has_no_memory_in_a_layer(start: Start) -> None:
    """Catches an answer in spite of it, a wait without end, a log without a reason.

    test_server.py has an op that raises, below one API server.
    """
    with start("--api-server-count", "2", TESTS_SERVING_FAULT="memory:5") as server:
        server.ready().scores()
        probe.assert_active_in_each(server, 4)
        probe.trigger(server.folder).touch()
        response = server.ask()
        assert response.status_code == 500
        assert "EngineCore encountered an issue" in response.text
        faults.assert_ends_by(server, "OutOfMemoryError: XPU out of memory", 1)


def test_engine_that_is_killed(start: Start) -> None:
    """Catches workers that outlive their engine, and clients that wait for it.

    Also workers that are forks of a process that has the device.
    """
    with start(*TENSOR, VLLM_WORKER_MULTIPROC_METHOD="fork") as server:
        scores = server.ready().scores()
        probe.assert_active_in_each(server, 4)
        notes = probe.notes(server.folder)
        starts = {n["start"] for n in notes if n["process"] != "MainProcess"}
        # A device was made before.
        assert starts == {"spawn"}
        assert "XPU is initialized" in server.output
        with Load(server) as load:
            load.wait_for(8)
            (engine,) = server.named("EngineCore")
            engine.kill()
            faults.assert_ends_by(server, "engine core exited unexpectedly", 0)
        for answer in load.scores:
            assert answer == pytest.approx(scores, abs=faults.TOLERANCE)
        assert "500" in load.failures
        assert set(load.failures) <= faults.ENDED


@pytest.mark.parametrize("executor", ["mp", "ray"])
def test_worker_that_is_killed_amid_a_request(executor: str, start: Start) -> None:
    """Catches the other worker waiting for it without end, and the client with it.

    Also a worker of Ray's without the plugin.
    """
    flags = (*TENSOR, "--distributed-executor-backend", executor)
    with start(*flags, TESTS_SERVING_FAULT="slow:3") as server:
        server.ready().scores()
        probe.assert_active_in_each(server, 4)
        probe.trigger(server.folder).touch()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(server.ask, faults.END)
            time.sleep(2)
            victim = server.named("Worker_TP1" if executor == "mp" else "RayWorker")[-1]
            victim.kill()
            begun = time.monotonic()
            response = asked.result()
        waited = time.monotonic() - begun
        print(f"worker killed, {executor}: {response.status_code} after {waited:.1f} s")
        assert response.status_code == 500
        within = faults.RAY_END if executor == "ray" else faults.END
        faults.assert_ends_by(server, "died", 0, within)
