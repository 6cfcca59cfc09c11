# SPDX-License-Identifier: Apache-2.0
"""Faults inside of an engine's ops, at a layer, from the moment a file says so.

`probe` puts them in. A file switches a fault on, so that a server comes up first.
"""

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import torch

from tests.serving.programs import Program
from tests.serving.server import Server, scores

OP = "_xpu_C::fp8_gemm_w8a16"
# Products of FP8 weights in a layer of all-MiniLM-L6-v2.
_A_LAYER = 4
# Seconds for a server to end by itself; vLLM gives its engine 5 on an XPU.
END = 40
# The same with Ray: its runtime_env_agent takes a minute once its raylet has gone.
RAY_END = 90
# Of an answer, with others in its batch or from another number of workers.
TOLERANCE = 0.003
# What a client sees of a server that breaks, at once: words, or no server any more. A
# time-out is none of them.
ENDED = {
    *("500", "503"),
    *("ConnectError", "ReadError", "RemoteProtocolError", "WriteError"),
}
# What it sees of one that is asked to end: a request that reaches the engine as that
# goes is never answered, and the server stays until the client gives up.
ASKED_TO_END = {"ReadTimeout", *ENDED}
# Seconds after which clients of such a server give up.
PATIENCE = 10


def put_in(kind: str, layer: str, trigger: Path) -> None:
    """Have the FP8 product of a layer do what it should not.

    Args:
        kind: ``raise``: an error of the driver's words. ``memory``: it asks its
            device for more memory than that has. ``slow``: it takes 5 s.
        layer: Number of the layer, from 0.
        trigger: A file that is there from the moment that the fault is.

    """
    from vllm_xpu_fp8_plugin import reference
    from vllm_xpu_fp8_plugin.virtual_xpu import ops

    real = reference.implementations()[OP]
    calls = 0

    def faulty(A: Any, B: Any, B_scale_: Any = None, bias_: Any = None) -> Any:
        nonlocal calls
        if trigger.exists():
            calls += 1
            if calls == int(layer) * _A_LAYER + 1:
                _do(kind)
        return real(A, B, B_scale_, bias_)

    ops.substitute(OP, faulty, "tests_serving_")


def _do(kind: str) -> None:
    if kind == "raise":
        raise RuntimeError("Native API failed: UR_RESULT_ERROR_DEVICE_LOST")
    if kind == "memory":
        torch.empty(1 << 45, dtype=torch.uint8, device="xpu")
    if kind == "slow":
        time.sleep(5)


def assert_ends_by(
    program: Program, reason: str, status: int, within: float = END
) -> None:
    """Assert that a program ends with all its processes, and says why.

    Args:
        program: That has been given a reason to end.
        reason: Words of its log.
        status: What it exits with.
        within: Seconds that it may take.

    """
    seconds = program.end(within)
    found = program.process.returncode
    print(f"{reason}: ended after {seconds:.1f} s with {found}, in {program.folder}")
    assert reason in program.output, program.said()
    assert found == status, program.said()


class Load:
    """Clients that ask a server again and again; for a ``with`` statement.

    Attributes:
        scores: Of each answer that was one.
        failures: What each other one was: a status, or the name of an error.

    """

    def __init__(self, server: Server, clients: int = 8, timeout: float = 60) -> None:
        self.server = server
        self.timeout = timeout
        self.scores: list[list[float]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    def wait_for(self, answers: int, within: float = 60) -> None:
        """Wait until so many answers have come."""
        end = time.monotonic() + within
        while len(self.scores) < answers:
            assert time.monotonic() < end, (self.failures, self.server.said())
            time.sleep(0.05)

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                response = self.server.ask(self.timeout)
            except httpx.HTTPError as e:
                self.failures.append(type(e).__name__)
                if isinstance(e, httpx.ConnectError):
                    return
                continue
            if response.status_code == 200:
                self.scores.append(scores(response))
            else:
                self.failures.append(str(response.status_code))
