# SPDX-License-Identifier: Apache-2.0
"""Starts ``vllm serve``, tells what its processes hold, and ends it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
# Seconds: two cores take 20 to 60, and 250 where others work too.
_UP, _DOWN = 400, 60


class Usage(NamedTuple):
    """What a server's processes hold, all of them together."""

    bytes: int
    files: int
    processes: int
    threads: int


class Server:
    """A server that answers.

    Attributes:
        url: Its address.
        log: The file of its output.

    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self.log = log
        self._process = psutil.Process(process.pid)

    def usage(self) -> Usage:
        """Return what its processes hold now."""
        processes = [self._process, *self._process.children(recursive=True)]
        held = [
            (p.memory_info().rss, p.num_fds(), 1, p.num_threads()) for p in processes
        ]
        return Usage(*(sum(column) for column in zip(*held, strict=True)))

    def settled(self, files: int, seconds: float = 15) -> Usage:
        """Return the usage once no more files are open than given, or time is up.

        A connection's file is closed some time after its client has gone.
        """
        end = time.monotonic() + seconds
        while (now := self.usage()).files > files and time.monotonic() < end:
            time.sleep(0.5)
        return now


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without vLLM's variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    path = f"{BIN}:{env['PATH']}"
    return {**env, "PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "80", **extra}


@contextlib.contextmanager
def serve(*command: str, log: Path, cwd: Path = ROOT, **env: str) -> Iterator[Server]:
    """Start a server on a free port of this host; it has ended afterwards.

    Args:
        command: Program and arguments, to which host and port are added.
        log: Where its output goes.
        cwd: The folder that it runs in.
        env: Variables beside `environment`.

    Raises:
        RuntimeError: It ended, or was not up in time.

    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=cwd,
            env=environment(**env),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process, log)
        yield Server(url, process, log)
    finally:
        _end(process)


def serve_with(log: Path, *flags: str) -> contextlib.AbstractContextManager[Server]:
    """Start the example server on the virtual XPU, with the plugin."""
    example = str(ROOT / "examples" / "serve.sh")
    return serve(example, *flags, log=log, VLLM_XPU_FP8_PLUGIN="emulate")


def serve_without(log: Path, model: str) -> contextlib.AbstractContextManager[Server]:
    """Start the same on vLLM's own platform, on the virtual XPU too."""
    own = str(ROOT / "tests" / "serving" / "own_platform.py")
    return serve(
        *(str(BIN / "vllm-xpu-fp8"), "run", "--", "env", "VLLM_XPU_FP8_PLUGIN=0"),
        *("python", own, "serve", model, "--quantization", "fp8"),
        *("--runner", "pooling", "--served-model-name", "reranker"),
        # What the plugin's platform sets for a CPU's speed and memory.
        *("--enforce-eager", "--kv-cache-memory-bytes", str(1 << 30)),
        log=log,
    )


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _UP
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server has ended:\n{tail(log)}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the server was not up after {_UP} s:\n{tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and kill what remains of its processes."""
    # Its session is its own: the group's number stays taken until all have ended.
    for sign, seconds in ((signal.SIGINT, _DOWN), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sign)
            process.wait(seconds)


def tail(log: Path) -> str:
    """Return the end of a log."""
    return log.read_text(errors="replace")[-4000:]
