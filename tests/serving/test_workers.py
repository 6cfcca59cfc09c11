# SPDX-License-Identifier: Apache-2.0
"""What a server of two workers gives, logs and leaves when one of them ends."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serving import faults, probe
from tests.serving.server import TENSOR, Start

pytestmark = [pytest.mark.slow, pytest.mark.soak]


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
