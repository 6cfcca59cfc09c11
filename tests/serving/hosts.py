# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of two hosts on one machine, each with an address of the loopback net.

Each has a raylet of its own, with one virtual GPU, its own working directory and its
own environment, in which nothing switches the plugin on.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil

from tests.serving import processes

RAY = str(Path(sys.executable).parent / "ray")


class Host:
    """A raylet, and the rest of a cluster with the first; for a ``with`` statement.

    Attributes:
        name: "TESTS_SERVING_HOST" of its processes.
        address: Its IP address.
        cluster: Address of the cluster, for RAY_ADDRESS.

    """

    def __init__(self, name: str, folder: Path, head: "Host | None" = None) -> None:
        """Start it; `wait` waits for the cluster.

        Args:
            name: Of the host, in the probe's notes.
            folder: An existing folder, whose `notes` its processes write to.
            head: The cluster's first host, None for that itself.

        """
        self.name = name
        self.mark = uuid.uuid4().hex
        # Ray takes 127.0.0.1 for the address that others reach this machine by.
        self.address = f"127.0.0.{3 if head else 2}"
        self._known: set[psutil.Process] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="ray-")
        self.work = Path(self._folder.name) / "work"
        self.work.mkdir()
        if head:
            self.cluster: str = head.cluster
            where = ["--address", head.cluster]
        else:
            port = processes.free_port()
            self.cluster = f"{self.address}:{port}"
            # Paths of sockets have 107 characters.
            where = ["--head", "--port", str(port), "--include-dashboard", "false"]
            where += ["--temp-dir", self._folder.name]
            where += ["--ray-client-server-port", str(processes.free_port())]
        agent = str(processes.free_port())
        env = processes.environment(
            folder,
            self.mark,
            VLLM_XPU_FP8_PLUGIN="",
            VLLM_HOST_IP=self.address,
            TESTS_SERVING_HOST=name,
        )
        self.log = self.work / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(RAY, "start", *where, "--node-ip-address", self.address),
                    *("--num-gpus", "1", "--num-cpus", "4", "--block"),
                    *("--dashboard-agent-listen-port", agent),
                    *("--object-store-memory", str(100 << 20)),
                ],
                cwd=self.work,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def wait(self, hosts: int, within: float = 120) -> None:
        """Wait until the cluster has so many hosts."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            done = subprocess.run(
                [RAY, "status", "--address", self.cluster],
                capture_output=True,
                text=True,
                timeout=60,
            )
            if f"/{hosts}.0 GPU" in done.stdout:
                self.family()
                return
            time.sleep(1)
        raise AssertionError(done.stdout + done.stderr + self.log.read_text())

    def family(self) -> set[psutil.Process]:
        """Return all its processes that run."""
        self._known |= processes.family(self.mark, self.process.pid)
        return {process for process in self._known if processes.runs(process)}

    def kill(self) -> None:
        """End all its processes at once, as a host that loses power."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)


def pids(host: Host) -> set[int]:
    """Return the numbers of a host's processes."""
    return {process.pid for process in host.family() if process.pid != os.getpid()}
