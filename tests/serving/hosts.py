# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of two hosts on one machine, each with an address of the loopback net.

Each has a raylet of its own, with one virtual GPU, its own working directory and its
own environment, in which nothing switches the plugin on.
"""

import subprocess
import tempfile
import uuid
from pathlib import Path

from tests.serving import probe
from tests.serving.programs import BIN, Program, environment, free_port

RAY = str(BIN / "ray")


class Host(Program):
    """A raylet, and the rest of a cluster with the first.

    Attributes:
        address: Its IP address.
        variables: By which others join the cluster.

    """

    def __init__(self, name: str, folder: Path, head: "Host | None" = None) -> None:
        """Start it; `wait` waits for the cluster.

        Args:
            name: "TESTS_SERVING_HOST" of its processes, in the probe's notes.
            folder: An existing folder, which the probe in its processes notes to.
            head: The cluster's first host, None for that itself.

        """
        # Ray takes 127.0.0.1 for the address that others reach this machine by.
        self.address = f"127.0.0.{3 if head else 2}"
        self._hosts = 1
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-")
        work = Path(self._temporary.name) / "work"
        work.mkdir()
        if head:
            self.variables: dict[str, str] = head.variables
            where = ["--address", head.variables["RAY_ADDRESS"]]
        else:
            port = free_port()
            # Ray has a token of the user's once it has made one, which joins a cluster
            # only where all say so.
            self.variables = {
                "RAY_ADDRESS": f"{self.address}:{port}",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": uuid.uuid4().hex,
            }
            # Paths of sockets have 107 characters.
            where = ["--head", "--port", str(port), "--include-dashboard", "false"]
            where += ["--temp-dir", self._temporary.name]
            where += ["--ray-client-server-port", str(free_port())]
        super().__init__(
            *(RAY, "start", *where, "--node-ip-address", self.address),
            *("--num-gpus", "1", "--num-cpus", "4", "--block"),
            *("--dashboard-agent-listen-port", str(free_port())),
            *("--object-store-memory", str(100 << 20)),
            log=work / "log",
            cwd=work,
            VLLM_HOST_IP=self.address,
            TESTS_SERVING_HOST=name,
            **probe.environment(folder),
            # Not the address, by which a head would not become one.
            **{k: v for k, v in self.variables.items() if k != "RAY_ADDRESS"},
        )

    def is_up(self) -> bool:
        """Return whether the cluster has as many hosts as are waited for."""
        done = subprocess.run(
            [RAY, "status"],
            env=environment(**self.variables),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return f"/{self._hosts}.0 GPU" in done.stdout

    def wait(self, hosts: int, within: float = 120) -> None:
        """Wait until the cluster has so many hosts.

        Raises:
            AssertionError: This one has ended, or they are not there in time.

        """
        self._hosts = hosts
        self.ready(within)

    def stop(self) -> None:
        """End all its processes at once, as a host that loses power."""
        self.kill()
        self._temporary.cleanup()
