# SPDX-License-Identifier: Apache-2.0
"""Starts `vllm serve`, knows all its processes, and ends them all.

A plugin of vLLM's own kind, `probe`, says from inside each process what it is.
"""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parent.parent.parent
VLLM = str(Path(sys.executable).parent / "vllm")
# Each process has it from the one that started it.
_MARK = "TESTS_SERVING_MARK"
_NOTES = "TESTS_SERVING_NOTES"
# Not used; httpx would make one a request, which costs more than the request.
_TLS = ssl.create_default_context()
QUERY = "What is the capital of France?"
DOCUMENTS = ["The capital of Brazil is Brasilia.", "The capital of France is Paris."]
# Of one worker, by tests/test_parallel.py's tolerance.
TOLERANCE = 0.003


def free_port() -> int:
    """Return a port of the loopback device that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


def family(mark: str, *roots: int) -> set[psutil.Process]:
    """Return the running processes that a test's processes have become.

    Those whose environment has the mark, those in the session of one of `roots`, and
    all that these have started. A process that has named itself has written over its
    environment, and one of Ray's has a session of its own.
    """
    found = set()
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) in roots or (
                process.environ().get(_MARK) == mark
            ):
                found |= {process, *process.children(recursive=True)}
        except (psutil.Error, OSError):
            continue
    return {process for process in found if runs(process)}


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def name(process: psutil.Process) -> str:
    """Return the name that vLLM gives a process, as ``Worker_TP0``, or ""."""
    try:
        title = re.match(r"(?:ray::)?VLLM::(\S+)", " ".join(process.cmdline()))
    except psutil.Error:
        return ""
    return title[1] if title else ""


def environment(folder: Path, mark: str, **environ: str) -> dict[str, str]:
    """Return the environment of a user's shell, with the probe and the mark.

    Args:
        folder: Gets the probe's entry point and what it notes.
        mark: Of all processes.
        environ: More variables; an empty one is left out. PYTHONPATH adds to ours.

    """
    made = folder / "plugins" / "tests_serving_probe-0.dist-info"
    made.mkdir(parents=True, exist_ok=True)
    (made / "METADATA").write_text("Name: tests-serving-probe\nVersion: 0\n")
    (made / "entry_points.txt").write_text(
        "[vllm.general_plugins]\ntests_serving_probe = tests.serving.probe:note\n"
    )
    (folder / "notes").mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM", "PYTEST_"))}
    env |= {
        "VLLM_XPU_FP8_PLUGIN": "emulate",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Each process's own lines.
        "RAY_DEDUP_LOGS": "0",
        _NOTES: str(folder / "notes"),
        _MARK: mark,
        **environ,
    }
    paths = [str(made.parent), str(ROOT), environ.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = ":".join(filter(None, paths))
    return {k: v for k, v in env.items() if v}


class Server:
    """A `vllm serve` process with all that it starts; for a ``with`` statement.

    Attributes:
        process: Of `vllm serve`.
        url: Its address.
        started: Seconds until it answered.

    """

    def __init__(
        self,
        model: str,
        folder: Path,
        *flags: str,
        wrapper: tuple[str, ...] = (),
        port: int = 0,
        **environ: str,
    ) -> None:
        """Start it; `ready` waits.

        Args:
            model: Folder of the model.
            folder: An existing folder for the log and notes of the probe.
            flags: More of `vllm serve`'s.
            wrapper: A command that runs what follows it.
            port: To listen on, 0 for a free one.
            environ: Environment variables; an empty one is left out.

        """
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "log"
        self._known: set[psutil.Process] = set()
        command = [
            *wrapper,
            *(VLLM, "serve", model, "--quantization", "fp8", "--runner", "pooling"),
            *("--served-model-name", "reranker"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *flags,
        ]
        self._begun = time.monotonic()
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment(folder, self.mark, **environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)

    @property
    def log(self) -> str:
        """What all its processes have said."""
        return self._log.read_text(errors="replace")

    def ready(self, within: float = 500) -> "Server":
        """Wait until it answers; a start that fails or hangs is an error."""
        while time.monotonic() < self._begun + within:
            assert self.process.poll() is None, self.log[-6000:]
            try:
                if self._health() == 200:
                    self.started = time.monotonic() - self._begun
                    self.family()
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"not up after {within} s:\n{self.log[-6000:]}")

    def ask(self, timeout: float = 60) -> httpx.Response:
        """Ask for the ranking of `DOCUMENTS`."""
        return httpx.post(
            f"{self.url}/v2/rerank",
            json={"model": "reranker", "query": QUERY, "documents": DOCUMENTS},
            timeout=timeout,
            verify=_TLS,
        )

    def _health(self) -> int:
        return httpx.get(f"{self.url}/health", timeout=5, verify=_TLS).status_code

    def scores(self) -> list[float]:
        """Return the scores of `DOCUMENTS`, in their order."""
        return scores(self.ask().raise_for_status())

    def family(self) -> set[psutil.Process]:
        """Return all its processes that run, also those that lost their parent."""
        self._known |= family(self.mark, self.process.pid)
        return {process for process in self._known if runs(process)}

    def named(self, start: str) -> list[psutil.Process]:
        """Return its processes whose name that vLLM gives begins so."""
        found = [p for p in self.family() if name(p).startswith(start)]
        return sorted(found, key=name)

    def notes(self) -> list[dict[str, Any]]:
        """Return what the probe found in each process."""
        return notes(self.folder)

    def terminate(self) -> None:
        """Ask it to end, as an orchestrator does."""
        self.process.send_signal(signal.SIGTERM)

    def end(self, within: float) -> float:
        """Wait until it has ended with all its processes, and return the seconds.

        Raises:
            AssertionError: It has not; names the processes that are left.

        """
        begun = time.monotonic()
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still up after {within} s:\n{self.log[-6000:]}"
            ) from None
        while (left := self.family()) and time.monotonic() < begun + within:
            time.sleep(0.2)
        assert not left, [(p.pid, name(p), p.name()) for p in left]
        return time.monotonic() - begun


def scores(response: httpx.Response) -> list[float]:
    """Return the scores of an answer in the documents' order."""
    results = response.json()["results"]
    results.sort(key=lambda result: result["index"])
    return [result["relevance_score"] for result in results]


def notes(folder: Path) -> list[dict[str, Any]]:
    """Return what the probe found in each process that has this folder."""
    return [json.loads(p.read_text()) for p in sorted((folder / "notes").iterdir())]


def assert_active_in_each(server: Server, count: int, coordinators: int = 0) -> None:
    """Assert that each process has the plugin, and has said so once.

    Args:
        server: That is up.
        count: Of its processes that have to do with an engine.
        coordinators: Of those that hand on what engines say; vLLM asks for its
            platform there, and calls no probe.

    """
    found = server.notes()
    assert [note["platform"] for note in found] == ["VirtualXPUPlatform"] * count
    assert {note["env"]["VLLM_XPU_FP8_PLUGIN"] for note in found} == {"emulate"}
    assert server.log.count("XPU FP8 plugin is active") == count + coordinators
