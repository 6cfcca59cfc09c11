# SPDX-License-Identifier: Apache-2.0
"""A server whose files change below it: a full disk, another kernel package."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving import expected, faults
from tests.serving.faults import Load
from tests.serving.server import DOCUMENTS, MINILM, QUERY, Start
from vllm_xpu_fp8_plugin.kernel_package import installed

pytestmark = [pytest.mark.slow, pytest.mark.soak]


def test_kernel_package_that_is_replaced(start: Start, tmp_path: Path) -> None:
    """Catches answers by half of the old and half of the new package."""
    place = tmp_path / "packages"
    real = installed.package_dir()
    shutil.copytree(real, place / real.name, copy_function=os.link)
    for info in real.parent.glob("vllm_xpu_kernels-*.dist-info"):
        shutil.copytree(info, place / info.name)
    paths = (str(place),)
    with start(paths=paths) as server:
        scores = server.ready().scores()
        maps = [Path(f"/proc/{p.pid}/maps") for p in server.named("EngineCore")]
        assert any(str(place) in m.read_text() for m in maps)
        # As pip does it: files go, and others come by their names.
        for file in [p for p in (place / real.name).rglob("*") if p.is_file()]:
            file.unlink()
            file.write_bytes(b"\x7fELF of another release")
        with Load(server, 2) as load:
            load.wait_for(20)
        assert load.failures == []
        for answer in load.scores:
            assert answer == pytest.approx(scores, abs=faults.TOLERANCE)
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
        scores = server.ready().scores()
        assert server.named("EngineCore")
        server.terminate()
        faults.assert_ends_by(server, "Shutting down", 0)
    float32 = expected.scores(MINILM, QUERY, DOCUMENTS)
    assert scores == pytest.approx(float32, abs=expected.TOLERANCE)
