# SPDX-License-Identifier: Apache-2.0
"""Servers of the tests of faults."""

from pathlib import Path

import pytest

from tests.serving import probe
from tests.serving.programs import free_port
from tests.serving.server import EXAMPLE, Server, Start


@pytest.fixture(scope="module")
def port() -> int:
    """Return the port of all servers, one after the other."""
    return free_port()


@pytest.fixture
def start(minilm: str, port: int, tmp_path: Path) -> Start:
    """Return a function that starts a server, to be ended by ``with``."""
    count = 0

    def start(
        *flags: str,
        wrapper: tuple[str, ...] = (),
        paths: tuple[str, ...] = (),
        **environ: str,
    ) -> Server:
        nonlocal count
        count += 1
        folder = tmp_path / f"server{count}"
        folder.mkdir()
        return Server(
            *(*wrapper, EXAMPLE, minilm, *flags),
            log=folder / "log",
            cwd=folder,
            port=port,
            VLLM_XPU_FP8_PLUGIN="emulate",
            **probe.environment(folder, *paths),
            **environ,
        )

    return start
