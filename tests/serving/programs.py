# SPDX-License-Identifier: Apache-2.0
"""Starts a command, knows all the processes that it becomes, and ends them."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from typing import Self

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
# Each process has it from the one that started it.
_MARK = "TESTS_SERVING_MARK"
# Seconds from SIGTERM to SIGKILL.
_DOWN = 60
# The end of a log, in an error.
_LETTERS = 6000


class Usage(NamedTuple):
    """What a program's processes hold, all of them together."""

    bytes: int
    files: int
    processes: int
    threads: int


class Program:
    """A command in a session of its own, with all that it starts; for ``with``.

    Attributes:
        process: Of the command.
        log: The file that all its processes' output goes to.
        folder: Where that is.
        started: Seconds until it was up.

    """

    def __init__(
        self, *command: str, log: Path, cwd: Path = ROOT, **environ: str
    ) -> None:
        """Start it; `ready` waits.

        Args:
            command: Program and arguments.
            log: A file in a folder that exists.
            cwd: The folder that it runs in.
            environ: Variables beside `environment`; an empty one is left out.

        """
        self.log = log
        self.folder = log.parent
        self.started = float("nan")
        self._mark = uuid.uuid4().hex
        self._known: set[psutil.Process] = set()
        self._begun = time.monotonic()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment(**environ, **{_MARK: self._mark}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def is_up(self) -> bool:
        """Return whether it does what it was started for."""
        raise NotImplementedError

    def ready(self, within: float) -> "Self":
        """Wait until it is up.

        Args:
            within: Seconds from now.

        Raises:
            AssertionError: It has ended, or was not up in time.

        """
        end = time.monotonic() + within
        while time.monotonic() < end:
            status = self.process.poll()
            assert status is None, f"ended with {status}:\n{self.said()}"
            if self.is_up():
                self.started = time.monotonic() - self._begun
                self.family()
                return self
            time.sleep(0.5)
        raise AssertionError(f"not up after {within} s:\n{self.said()}")

    def said(self, letters: int = _LETTERS) -> str:
        """Return the end of what all its processes have said."""
        return self.output[-letters:]

    @property
    def output(self) -> str:
        """What all its processes have said."""
        return self.log.read_text(errors="replace")

    def family(self) -> set[psutil.Process]:
        """Return all its processes that run, also those that lost their parent.

        Those whose environment has the mark, those in its session, and all that these
        have started. A process that has named itself has written over its
        environment, and one of Ray's has a session of its own.
        """
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if (
                    os.getsid(process.pid) == self.process.pid
                    or process.environ().get(_MARK) == self._mark
                ):
                    self._known |= {process, *process.children(recursive=True)}
        return {process for process in self._known if runs(process)}

    def names(self) -> list[str]:
        """Return the names of its processes that have one, as ``Worker_TP0``."""
        return sorted(filter(None, map(name, self.family())))

    def named(self, start: str) -> list[psutil.Process]:
        """Return its processes whose name begins so, in the order of their names."""
        found = [p for p in self.family() if name(p).startswith(start)]
        return sorted(found, key=name)

    def usage(self) -> Usage:
        """Return what its processes hold now."""
        held = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                size = process.memory_info().rss
                held.append((size, process.num_fds(), 1, process.num_threads()))
        return Usage(*(sum(column) for column in zip(*held, strict=True)))

    def settled(self, files: int, seconds: float = 15) -> Usage:
        """Return the usage once no more files are open than given, or time is up.

        A connection's file is closed some time after its client has gone.
        """
        end = time.monotonic() + seconds
        while (now := self.usage()).files > files and time.monotonic() < end:
            time.sleep(0.5)
        return now

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
            raise AssertionError(f"still up after {within} s:\n{self.said()}") from None
        while (left := self.family()) and time.monotonic() < begun + within:
            time.sleep(0.2)
        assert not left, [(p.pid, name(p), p.name()) for p in left]
        return time.monotonic() - begun

    def stop(self) -> None:
        """Ask it to end, if it has not, and kill what remains of its processes."""
        if self.process.poll() is None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_DOWN)
        self.kill()

    def kill(self) -> None:
        """End all its processes at once."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a user's shell.

    Args:
        extra: More variables; an empty one is left out.

    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM", "PYTEST_"))}
    env |= {
        "PATH": f"{BIN}:{env['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "80",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Each process's own lines.
        "RAY_DEDUP_LOGS": "0",
        **extra,
    }
    return {k: v for k, v in env.items() if v}


def free_port() -> int:
    """Return a port of the loopback device that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def name(process: psutil.Process) -> str:
    """Return the name that vLLM or Ray gives a process, as ``Worker_TP0``, or ""."""
    try:
        title = re.match(r"(?:ray::|VLLM::)+(\S+)", " ".join(process.cmdline()))
    except psutil.Error:
        return ""
    return title[1] if title else ""
