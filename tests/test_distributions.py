# SPDX-License-Identifier: Apache-2.0
"""Wheel and sdist as a release builds them, and the scripts that a release runs."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.wheel import ROOT, distributions, environment, tracked
from vllm_xpu_fp8_plugin import __version__

SITE = sysconfig.get_path("purelib")
NAME = f"vllm_xpu_fp8_plugin-{__version__}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with wheel and sdist."""
    return distributions(tmp_path_factory)


def script(name: str, *arguments: str, **environ: str) -> tuple[int, str]:
    """Run a script and return its exit status and what it printed."""
    done = subprocess.run(
        [ROOT / "scripts" / name, *arguments],
        env={**environment(), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


def test_what_is_built_is_what_users_install(built: Path) -> None:
    """Catches a wheel or sdist that does not install, or has no working command."""
    names = {path.name for path in built.iterdir()}
    assert names == {f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"}
    status, output = script(
        "smoke_dist.sh", str(built), SITE=SITE, PYTHON=sys.executable
    )
    assert status == 0, output
    assert output.count(f"{__version__} installed and used") == 2


def test_sdist_holds_what_its_wheel_is_built_of(built: Path) -> None:
    """Catches an sdist from which a package can be built that lacks files."""
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        held = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    names = {str(path.relative_to(ROOT)) for path in tracked()}
    package = {name for name in names if name.startswith("vllm_xpu_fp8_plugin/")}
    assert package | {"pyproject.toml", "README.md", "LICENSE"} <= held


def test_nothing_built_is_an_error(tmp_path: Path) -> None:
    """Catches a release whose smoke test has tested nothing."""
    status, output = script("smoke_dist.sh", str(tmp_path))
    assert (status, "no wheel and sdist" in output) == (2, True)


def test_installing_changes_no_other_package(built: Path, tmp_path: Path) -> None:
    """Catches a requirement for which pip would replace a user's package.

    The environment has this one's vLLM, torch and all else. pip may fetch nothing, so
    that a requirement which they do not meet is an error.
    """
    venv = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "users.pth").write_text(f"{SITE}\n")

    def pip(*arguments: str) -> str:
        command = [venv / "bin" / "python", "-m", "pip", *arguments]
        return subprocess.check_output(command, env=environment(), text=True)

    def frozen() -> list[str]:
        return pip("freeze", "--exclude", "vllm-xpu-fp8-plugin").splitlines()

    before = frozen()
    assert any(line.startswith("vllm==") for line in before)
    assert any(line.startswith("torch==") for line in before)
    pip("install", "-q", str(built / f"{NAME}-py3-none-any.whl"))
    assert (site / "vllm_xpu_fp8_plugin").is_dir()
    assert frozen() == before
    pip("uninstall", "-q", "-y", "vllm-xpu-fp8-plugin")
    assert not (site / "vllm_xpu_fp8_plugin").exists()
    assert [path.name for path in site.iterdir()] == ["users.pth"]


def test_audit_says_where_it_could_not_ask() -> None:
    """Catches an audit that calls sound what it knows nothing of."""
    status, output = script("audit.sh", HTTPS_PROXY="http://127.0.0.1:9")
    assert status == 3, output
    assert "could not be asked" in output
    assert "safetensors==" in output
    assert script("audit.sh", "--no-such-flag")[0] not in (0, 3)


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "word"),
    [
        ("v1.2.0", "1.2.0", "## 1.2.0 - 2026-11-25", ""),
        ("v1.2.0", "1.2.0", "## [1.2.0] - 2026-11-25", ""),
        ("v1.2.1", "1.2.0", "## 1.2.0 - 2026-11-25", "the tag is v1.2.1"),
        ("1.2.0", "1.2.0", "## 1.2.0 - 2026-11-25", "asks for v1.2.0"),
        ("v1.2.0", "1.2.0", "## 1.1.0 - 2026-11-25", "begins with 1.1.0"),
        ("v1.2.0", "1.2.0", "## 1.2.0 (unreleased)", "no line"),
    ],
)
def test_tag_version_and_changelog_agree(
    tag: str, version: str, changelog: str, word: str, tmp_path: Path
) -> None:
    """Catches a release under another number than its own, and one without a date."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "vllm_xpu_fp8_plugin").mkdir()
    shutil.copy(ROOT / "scripts" / "release_version.sh", tmp_path / "scripts")
    init = tmp_path / "vllm_xpu_fp8_plugin" / "__init__.py"
    init.write_text(f'__version__ = "{version}"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{changelog}\n")
    done = subprocess.run(
        [tmp_path / "scripts" / "release_version.sh", tag],
        env=os.environ,
        capture_output=True,
        text=True,
    )
    if word:
        assert (done.returncode, done.stdout) == (1, "")
        assert word in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, f"{version}\n"), done.stderr
