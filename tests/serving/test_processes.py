# SPDX-License-Identifier: Apache-2.0
"""Every process of a server has the plugin and says so once.

test_faults.py has two workers as processes of vLLM's own.
"""

from pathlib import Path

import pytest

from tests.serving import faults, probe
from tests.serving.faults import Load
from tests.serving.server import EXAMPLE, Server

pytestmark = [pytest.mark.slow, pytest.mark.soak]

TENSOR = ("--tensor-parallel-size", "2")
DATA = ("--data-parallel-size", "2")
FORK = {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}


@pytest.mark.parametrize(
    ("flags", "environ", "count", "names"),
    [
        # The one that was started, API servers, engines, and where these are two or
        # have two devices a worker for each.
        (TENSOR, FORK, 4, ["EngineCore", "Worker_TP0", "Worker_TP1"]),
        (
            DATA,
            {},
            7,
            ["APIServer_0", "APIServer_1", "EngineCore_DP0", "EngineCore_DP1"],
        ),
        (
            (*DATA, "--api-server-count", "1"),
            {},
            5,
            ["EngineCore_DP0", "EngineCore_DP1"],
        ),
        (("--api-server-count", "2"), {}, 4, ["APIServer_0", "APIServer_1"]),
        ((*TENSOR, "--distributed-executor-backend", "ray"), {}, 4, ["EngineCore"]),
    ],
    ids=["fork", "data", "data-one-api", "api", "ray"],
)
def test_every_process_has_the_plugin(
    flags: tuple[str, ...],
    environ: dict[str, str],
    count: int,
    names: list[str],
    minilm: str,
    tmp_path: Path,
) -> None:
    """Catches a process that vLLM starts with another environment or platform."""
    with Server(
        *(EXAMPLE, minilm, *flags),
        log=tmp_path / "log",
        cwd=tmp_path,
        VLLM_XPU_FP8_PLUGIN="emulate",
        **probe.environment(tmp_path),
        **environ,
    ) as server:
        scores = server.ready().scores()
        print(f"up after {server.started:.0f} s", scores)
        print(server.names())
        notes = probe.notes(tmp_path)
        print([(n["process"], n["start"], n["parent"], n["pid"]) for n in notes])
        starts = {n["start"] for n in notes if n["process"] != "MainProcess"}
        # Also where fork is asked for, since a device was made before.
        assert starts == {"spawn"}
        assert ("XPU is initialized" in server.output) == (environ == FORK)
        for name in names:
            assert server.named(name), name
        # Each engine and each API server gets some of these.
        for _ in range(8):
            again = server.scores()
            assert again == pytest.approx(scores, abs=faults.TOLERANCE)
        coordinators = len(server.named("DPCoordinator"))
        probe.assert_active_in_each(server, count, coordinators)
        found = server.names()
        with Load(server, timeout=faults.PATIENCE) as load:
            load.wait_for(8)
            if two_engines := server.named("EngineCore_DP"):
                # The other goes with it, and so do those that would ask it.
                two_engines[1].kill()
                several = "APIServer_0" in found
                # One that is alone sees first what the other engine leaves undone.
                died = "DP1 died unexpectedly" if several else "output_handler failed"
                faults.assert_ends_by(server, died, int(several))
                allowed = faults.ASKED_TO_END
            else:
                server.terminate()
                within = faults.RAY_END if "ray" in flags else faults.END
                faults.assert_ends_by(server, "Shutting down", 0, within)
                allowed = faults.ASKED_TO_END
        for answer in load.scores:
            assert answer == pytest.approx(scores, abs=faults.TOLERANCE)
        assert set(load.failures) <= allowed
