# SPDX-License-Identifier: Apache-2.0
"""Two hosts of a Ray cluster, each with one virtual GPU and no variable of the plugin.

Only the command that starts the server has its variables, as docs/deploy.md says. One
test at a time: each has hosts of the same addresses.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import faults, probe
from tests.serving.faults import Load
from tests.serving.hosts import Host
from tests.serving.server import EXAMPLE, Server

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(1200)]

UP = 500
FLAGS = {
    "tensor": (
        *("--distributed-executor-backend", "ray"),
        *("--tensor-parallel-size", "2"),
    ),
    "data": (
        *("--data-parallel-size", "2", "--data-parallel-backend", "ray"),
        *("--data-parallel-size-local", "1", "--api-server-count", "1"),
    ),
}


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Host]:
    with Host("a", tmp_path) as host:
        host.wait(1)
        yield host


def serve(minilm: str, head: Host, folder: Path, flags: tuple[str, ...]) -> Server:
    """Start the server where the first host is."""
    folder.mkdir()
    return Server(
        *(EXAMPLE, minilm, *flags),
        log=folder / "log",
        cwd=folder,
        VLLM_XPU_FP8_PLUGIN="emulate",
        VLLM_HOST_IP=head.address,
        VLLM_XPU_FP8_VIRTUAL_DEVICES="1",
        TESTS_SERVING_HOST="driver",
        **head.variables,
        **probe.environment(folder),
    )


@pytest.mark.parametrize("kind", list(FLAGS))
def test_a_server_on_two_hosts_and_one_that_goes(
    kind: str, minilm: str, head: Host, tmp_path: Path
) -> None:
    """Catches workers without the plugin, and a server that waits for a lost host."""
    flags = FLAGS[kind]
    with Host("b", tmp_path, head) as other:
        head.wait(2)
        with serve(minilm, head, tmp_path / "before", flags) as server:
            expected = server.ready(UP).scores()
            print(f"up after {server.started:.0f} s", expected)
            notes = probe.notes(server.folder) + probe.notes(tmp_path)
            print([(n["process"], n["host"], n["folder"]) for n in notes])
            assert {note["platform"] for note in notes} == {"VirtualXPUPlatform"}
            # Its own environment and folder, and the driver's variables.
            pids = {process.pid for process in other.family()}
            there = [n for n in notes if n["pid"] in pids]
            assert {n["host"] for n in there} == {"b"}
            assert there[0]["env"]["VLLM_XPU_FP8_VIRTUAL_DEVICES"] == "1"
            with Load(server, 4) as load:
                load.wait_for(8)
                other.kill()
                faults.assert_ends_by(server, "EngineDeadError", 0, faults.RAY_END)
            assert load.failures
            assert set(load.failures) <= faults.ENDED
            for scores in load.scores:
                assert scores == pytest.approx(expected, abs=faults.TOLERANCE)
    with Host("b", tmp_path, head) as other:
        head.wait(2)
        begun = time.monotonic()
        with serve(minilm, head, tmp_path / "after", flags) as server:
            again = server.ready(UP).scores()
            assert again == pytest.approx(expected, abs=faults.TOLERANCE)
            print(f"service is back {time.monotonic() - begun:.0f} s after the host")
            server.terminate()
            faults.assert_ends_by(server, "Shutting down", 0, faults.RAY_END)
        end = time.monotonic() + 10
        while busy := [n for n in head.names() if re.search("Worker|EngineCore", n)]:
            assert time.monotonic() < end, busy
            time.sleep(0.5)
