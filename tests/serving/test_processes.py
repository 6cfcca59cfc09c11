# SPDX-License-Identifier: Apache-2.0
"""Each process of a data parallel server has the plugin, and goes with the others.

test_faults.py has the processes of other servers: several workers, API servers, Ray's.
"""

from pathlib import Path

import pytest

from tests.serving import faults, probe
from tests.serving.faults import Load
from tests.serving.server import EXAMPLE, Server

pytestmark = [pytest.mark.slow, pytest.mark.soak]

ENGINES = ["EngineCore_DP0", "EngineCore_DP1"]


@pytest.mark.parametrize(
    ("flags", "count", "names", "reason", "status"),
    [
        # The one that was started, API servers, engines, and a worker for each engine.
        # Of the engine and the API servers that end with it, one is named.
        ((), 7, ["APIServer_0", "APIServer_1", *ENGINES], "died", 1),
        # One that is alone sees first what the other engine leaves undone.
        (("--api-server-count", "1"), 5, ENGINES, "output_handler failed", 0),
    ],
    ids=["two", "one"],
)
def test_two_engines_of_which_one_is_killed(
    flags: tuple[str, ...],
    count: int,
    names: list[str],
    reason: str,
    status: int,
    minilm: str,
    tmp_path: Path,
) -> None:
    """Catches a process without the plugin, and an engine that outlives the other."""
    with Server(
        *(EXAMPLE, minilm, "--data-parallel-size", "2", *flags),
        log=tmp_path / "log",
        cwd=tmp_path,
        VLLM_XPU_FP8_PLUGIN="emulate",
        **probe.environment(tmp_path),
    ) as server:
        scores = server.ready().scores()
        print(f"up after {server.started:.0f} s", scores, server.names())
        for name in names:
            assert server.named(name), name
        # Each engine and each API server gets some of these.
        for _ in range(8):
            again = server.scores()
            assert again == pytest.approx(scores, abs=faults.TOLERANCE)
        coordinators = len(server.named("DPCoordinator"))
        probe.assert_active_in_each(server, count, coordinators)
        with Load(server, timeout=faults.PATIENCE) as load:
            load.wait_for(8)
            server.named("EngineCore_DP")[1].kill()
            faults.assert_ends_by(server, reason, status)
        for answer in load.scores:
            assert answer == pytest.approx(scores, abs=faults.TOLERANCE)
        assert set(load.failures) <= faults.ASKED_TO_END
