# SPDX-License-Identifier: Apache-2.0
"""What a server gives, logs and leaves when something breaks below it.

Each server answers before; what follows has a bound in time, no answer is wrong, no
process is left, and the next server starts on the same port.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving import faults, probe
from tests.serving.faults import Load
from tests.serving.programs import free_port
from tests.serving.server import EXAMPLE, Server
from vllm_xpu_fp8_plugin.kernel_package import installed

pytestmark = [pytest.mark.slow, pytest.mark.soak]

Start = Callable[..., Server]


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


def leave(server: Server, times: int) -> None:
    """Ask and go away before the answer; every third time amid the request."""
    body = json.dumps(
        {"model": "reranker", "query": "q", "documents": ["many words " * 40] * 8}
    ).encode()
    head = f"POST /v2/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    for i in range(times):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as s:
            s.sendall(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode())
            s.sendall(body[: len(body) // 2] if i % 3 == 2 else body)
            # Into the engine, or not yet.
            time.sleep(0.1 * (i % 2))


def unfinished(server: Server) -> float:
    """Return how many requests the engine has, by its own metrics."""
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    lines = [line for line in text.splitlines() if line.startswith(names)]
    assert len(lines) == 2, text
    return sum(float(line.split()[-1]) for line in lines)


def test_clients_that_leave_and_a_sigterm_under_load(start: Start) -> None:
    """Catches requests that stay in the engine, and a server that does not go.

    Also a worker without the plugin, and what is said twice.
    """
    with start("--tensor-parallel-size", "2") as server:
        expected = server.ready().scores()
        for kind in ("EngineCore", "Worker_TP0", "Worker_TP1"):
            assert server.named(kind), kind
        probe.assert_active_in_each(server, 4)
        leave(server, 12)
        end = time.monotonic() + 60
        while unfinished(server):
            assert time.monotonic() < end, "requests of clients that left are kept"
            time.sleep(0.5)
        assert server.scores() == pytest.approx(expected, abs=faults.TOLERANCE)
        with Load(server, timeout=faults.PATIENCE) as load:
            load.wait_for(16)
            server.terminate()
            faults.assert_ends_by(server, "Shutting down", 0)
        for scores in load.scores:
            assert scores == pytest.approx(expected, abs=faults.TOLERANCE)
        assert set(load.failures) <= faults.ASKED_TO_END


@pytest.mark.parametrize("servers", [1, 2])
def test_op_that_has_no_memory_in_a_layer(servers: int, start: Start) -> None:
    """Catches an answer in spite of it, a wait without end, a log without a reason.

    test_server.py has an op that raises.
    """
    flags = ("--api-server-count", str(servers))
    with start(*flags, TESTS_SERVING_FAULT="memory:5") as server:
        server.ready().scores()
        probe.trigger(server.folder).touch()
        response = server.ask()
        assert response.status_code == 500
        assert "EngineCore encountered an issue" in response.text
        reason = "OutOfMemoryError: XPU out of memory"
        faults.assert_ends_by(server, reason, int(servers > 1))


def test_engine_that_is_killed(start: Start) -> None:
    """Catches workers that outlive their engine, and clients that wait for it."""
    with start("--tensor-parallel-size", "2") as server:
        expected = server.ready().scores()
        with Load(server) as load:
            load.wait_for(8)
            (engine,) = server.named("EngineCore")
            engine.kill()
            faults.assert_ends_by(server, "engine core exited unexpectedly", 0)
        for scores in load.scores:
            assert scores == pytest.approx(expected, abs=faults.TOLERANCE)
        assert "500" in load.failures
        assert set(load.failures) <= faults.ENDED


@pytest.mark.parametrize("executor", ["mp", "ray"])
def test_worker_that_is_killed_amid_a_request(executor: str, start: Start) -> None:
    """Catches the other worker waiting for it without end, and the client with it."""
    flags = ("--tensor-parallel-size", "2", "--distributed-executor-backend", executor)
    with start(*flags, TESTS_SERVING_FAULT="slow:3") as server:
        server.ready().scores()
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


def test_kernel_package_that_is_replaced(start: Start, tmp_path: Path) -> None:
    """Catches answers by half of the old and half of the new package."""
    place = tmp_path / "packages"
    real = installed.package_dir()
    shutil.copytree(real, place / real.name, copy_function=os.link)
    for info in real.parent.glob("vllm_xpu_kernels-*.dist-info"):
        shutil.copytree(info, place / info.name)
    paths = (str(place),)
    with start(paths=paths) as server:
        expected = server.ready().scores()
        maps = [Path(f"/proc/{p.pid}/maps") for p in server.named("EngineCore")]
        assert any(str(place) in m.read_text() for m in maps)
        # As pip does it: files go, and others come by their names.
        for file in [p for p in (place / real.name).rglob("*") if p.is_file()]:
            file.unlink()
            file.write_bytes(b"\x7fELF of another release")
        with Load(server, 2) as load:
            load.wait_for(20)
        assert load.failures == []
        for scores in load.scores:
            assert scores == pytest.approx(expected, abs=faults.TOLERANCE)
        server.terminate()
        server.end(faults.END)
    with start(paths=paths) as server:
        assert server.process.wait(120) != 0
        assert server.end(5) >= 0
        print(server.said(1500))


def can_mount() -> bool:
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "x"]
    with contextlib.suppress(OSError):
        done = subprocess.run([*command, "/mnt"], capture_output=True, timeout=20)
        return done.returncode == 0
    return False


def full_disk(folder: Path, then: str = "") -> tuple[str, ...]:
    """Return a command that runs what follows it with a full disk at a folder.

    Args:
        folder: Is there, and hidden by the disk.
        then: Shell commands that run before the disk is filled.

    """
    script = (
        f"mount -t tmpfs -o size=64k full {folder} && {then or ':'} && "
        f'(cat /dev/zero > {folder}/filling 2>&- || :) && exec "$@"'
    )
    return ("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh")


needs_mount = pytest.mark.skipif(not can_mount(), reason="may not mount a tmpfs")


@needs_mount
def test_disk_that_is_full_before_the_device_is_compiled(
    start: Start, tmp_path: Path
) -> None:
    """Catches a traceback, a wait for a lock, and half a library that is kept."""
    cache = tmp_path / "cache"
    cache.mkdir()
    with start(wrapper=full_disk(cache), VLLM_XPU_FP8_CACHE=str(cache)) as server:
        assert server.process.wait(300) == 1
        assert server.end(5) >= 0
        print(server.said(1500))
        assert "vllm-xpu-fp8-plugin: " in server.output
        assert "No space left on device" in server.output
        assert "Traceback" not in server.output


@needs_mount
def test_disk_that_is_full_once_the_device_is_compiled(
    start: Start, tmp_path: Path
) -> None:
    """Catches a server that needs the disk: kernels, vLLM's and Triton's caches."""
    from vllm_xpu_fp8_plugin.virtual_xpu import build

    disk = tmp_path / "disk"
    disk.mkdir()
    device = build.cache_folder() / "device"
    then = f"ln -s {device} {disk}/device"
    environ = {
        "VLLM_XPU_FP8_CACHE": str(disk),
        "VLLM_CACHE_ROOT": str(disk / "vllm"),
        "TRITON_CACHE_DIR": str(disk / "triton"),
    }
    with start(wrapper=full_disk(disk, then), **environ) as server:
        full = server.ready().scores()
        assert server.named("EngineCore")
        server.terminate()
        server.end(faults.END)
    with start() as server:
        assert server.ready().scores() == pytest.approx(full, abs=faults.TOLERANCE)
