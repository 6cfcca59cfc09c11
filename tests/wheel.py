# SPDX-License-Identifier: Apache-2.0
"""Builds the wheel that users install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doctor.packages import once

ROOT = Path(__file__).parent.parent


def tracked() -> list[Path]:
    """Return the files that are, or are about to be, in the repository."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip("not a git clone: the list of source files comes from git")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).exists()]


def distributions(factory: pytest.TempPathFactory) -> Path:
    """Build wheel and sdist as a release does, once, and return their folder."""
    folder: Path = once(factory, "distributions", lambda: _build_both(factory))
    return folder


def _build_both(factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, without an index: nothing is left in the repository."""
    source = factory.mktemp("source")
    for path in tracked():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    folder = factory.mktemp("dist")
    done = subprocess.run(
        [source / "scripts" / "build_dist.sh", folder],
        env={**environment(), "BUILD_FLAGS": "--no-isolation"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def environment() -> dict[str, str]:
    """Return variables with which this Python's tools run, and pip asks nobody."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PIP_NO_INDEX": "1"}


def build(factory: pytest.TempPathFactory) -> Path:
    """Build both and return the wheel."""
    return next(distributions(factory).glob("*.whl"))
