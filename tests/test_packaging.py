# SPDX-License-Identifier: Apache-2.0
"""The wheel that users install, and what the repository promises of itself."""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.startup import mirror
from vllm_xpu_fp8_plugin import __version__

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that nothing is left in the repository."""
    source = tmp_path_factory.mktemp("source")
    for path in tracked():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Catches tests or examples in the wheel, and data files left out of it."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "vllm_xpu_fp8_plugin",
        f"vllm_xpu_fp8_plugin-{__version__}.dist-info",
    }
    package = {
        str(p.relative_to(ROOT))
        for p in tracked()
        if p.is_relative_to(ROOT / "vllm_xpu_fp8_plugin")
    }
    assert package == {n for n in names if n.startswith("vllm_xpu_fp8_plugin/")}
    assert "vllm_xpu_fp8_plugin/py.typed" in package
    assert [n for n in names if n.endswith("licenses/LICENSE")]


def test_metadata_asks_for_neither_vllm_nor_torch(wheel: Path) -> None:
    """Catches a dependency for which pip would replace the user's XPU build."""
    archive = zipfile.ZipFile(wheel)
    info = f"vllm_xpu_fp8_plugin-{__version__}.dist-info"
    metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    required = metadata.get_all("Requires-Dist") or []
    assert [x for x in required if "extra ==" not in x] == ["rich>=13"]
    extras = set(metadata.get_all("Provides-Extra") or [])
    assert {"vllm", "emulation", "ipex", "plot", "test"} <= extras
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    points = archive.read(f"{info}/entry_points.txt").decode()
    assert "[vllm.platform_plugins]\nxpu_fp8 = vllm_xpu_fp8_plugin:register" in points


def test_installed_wheel_is_found_by_vllm(wheel: Path, tmp_path: Path) -> None:
    """Catches a package that works from its source folder only."""
    path = mirror(tmp_path / "site", with_plugin=False)
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*install, "--target", target, wheel], check=True)
    code = """
import vllm_xpu_fp8_plugin
from vllm.platforms import current_platform
print(vllm_xpu_fp8_plugin.__file__, type(current_platform).__name__)
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={
            **env,
            "PYTHONPATH": f"{target}:{path}",
            "VLLM_XPU_FP8_PLUGIN": "emulate",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert str(target) in done.stdout, done.stderr
    assert "EmulatedXPUPlatform" in done.stdout


def test_command_is_installed() -> None:
    """Catches a console script that names a function which does not exist."""
    script = Path(sys.executable).parent / "vllm-xpu-fp8"
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == __version__
    done = subprocess.run([script, "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_every_source_file_has_its_licence_line() -> None:
    """Catches a source file without the SPDX header."""
    sources = [p for p in tracked() if p.suffix in (".py", ".sh") and p.stat().st_size]
    assert len(sources) > 20
    for path in sources:
        head = path.read_text().splitlines()[:3]
        assert "# SPDX-License-Identifier: Apache-2.0" in head, path


def test_version_is_kept_once() -> None:
    """Catches a second place for the version, and a changelog that lags behind."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in pyproject
    assert not re.search(r'^version = "', pyproject, re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest
    assert newest[1] == __version__
    assert not (ROOT / "setup.py").exists()


def test_ci_runs_make_test() -> None:
    """Catches a CI that runs something other than what developers run."""
    assert re.search(r"\bmake test$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    done = subprocess.run(
        ["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True
    )
    for part in ("ruff check", "ruff format --check", "mypy", "pytest"):
        assert part in done.stdout
