# SPDX-License-Identifier: Apache-2.0
"""Packages of other versions, fetched into ``.wheels`` and kept there."""

import functools
import importlib.util
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from vllm_xpu_fp8_plugin.kernel_package import files
from vllm_xpu_fp8_plugin.kernel_package.files import KernelPackage

CACHE = Path(__file__).parent.parent.parent / ".wheels"

# Of a vLLM wheel, what doctor reads and `upstream/` changes: some 500 KB of 300 MB.
VLLM_SOURCES = (
    "vllm/_xpu_ops.py",
    "vllm/platforms/xpu.py",
    "vllm/v1/attention/backends/fa_utils.py",
    "vllm/v1/attention/backends/flash_attn.py",
    "vllm/v1/attention/backends/flash_attn_diffkv.py",
    "vllm/v1/attention/backends/triton_attn.py",
)


def kernel_wheel(version: str) -> Path:
    """Return the wheel of vllm-xpu-kernels, or skip the test."""
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"kernels-{version}.lock", timeout=300):
        if found := sorted(CACHE.glob(f"vllm_xpu_kernels-{version}-*.whl")):
            return found[0]
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
            command += ["--retries", "0", "--timeout", "30", "-d", folder]
            done = subprocess.run(
                [*command, f"vllm-xpu-kernels=={version}"],
                capture_output=True,
                text=True,
                timeout=300,
            )
            if done.returncode:
                pytest.skip(f"pip cannot download the wheel: {done.stderr[-300:]}")
            wheel = next(Path(folder).glob("*.whl"))
            return Path(shutil.move(wheel, CACHE / wheel.name))


@functools.cache
def kernel_package(version: str) -> KernelPackage:
    """Return what is read from the wheel, or skip the test."""
    return files.read_package(kernel_wheel(version))


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, made by one of xdist's workers for all."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    made = folder / f"{name}.pickle"
    with FileLock(f"{made}.lock", timeout=300):
        if not made.exists():
            made.write_bytes(pickle.dumps(make()))
    return pickle.loads(made.read_bytes())


def installed_vllm() -> Path:
    """Return the folder of the installed vLLM without importing it."""
    spec = importlib.util.find_spec("vllm")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent


def vllm_tree(version: str) -> Path:
    """Return the folder of vLLM's package with `VLLM_SOURCES`, or skip the test."""
    root = CACHE / f"vllm-{version}"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"vllm-{version}.lock", timeout=300):
        if not root.exists():
            try:
                archive = zipfile.ZipFile(io.BufferedReader(_wheel(version), 1 << 18))
                with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                    archive.extractall(f"{folder}/tree", VLLM_SOURCES)
                    os.replace(f"{folder}/tree", root)
            except (OSError, KeyError) as e:
                pytest.skip(f"vLLM {version} cannot be had from the index: {e}")
    return root / "vllm"


def _wheel(version: str) -> "_RangeFile":
    """Return the wheel on the index that pip uses."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
    request = urllib.request.Request(
        f"{index.rstrip('/')}/vllm/",
        headers={"Accept": "application/vnd.pypi.simple.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        if "json" not in answer.headers.get("Content-Type", ""):
            raise OSError(f"{index} has no JSON index")
        files = json.load(answer)["files"]
    for file in files:
        name = file["filename"]
        if name.startswith(f"vllm-{version}-") and name.endswith("x86_64.whl"):
            return _RangeFile(file["url"])
    raise OSError(f"{index} has no such wheel")


class _RangeFile(io.RawIOBase):
    """A file on an HTTP server, of which only what is read is transferred."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.position = 0
        head = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(head, timeout=30) as answer:
            self.size = int(answer.headers["Content-Length"])

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}
        self.position = base[whence] + offset
        return self.position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self.size - self.position)
        if count <= 0:
            return 0
        end = self.position + count - 1
        request = urllib.request.Request(
            self.url, headers={"Range": f"bytes={self.position}-{end}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                raise OSError("the server does not send parts of a file")
            data = answer.read()
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)
