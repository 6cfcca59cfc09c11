# SPDX-License-Identifier: Apache-2.0
"""The wheel that users install, and what the repository promises of itself."""

import ast
import email
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.startup import mirror
from tests.wheel import ROOT, build, tracked
from vllm_xpu_fp8_plugin import __version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel."""
    return build(tmp_path_factory)


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


def requirements(metadata: Message) -> dict[str, str]:
    """Return the names that the wheel asks for without an extra, and the versions."""
    lines = [Requirement(x) for x in metadata.get_all("Requires-Dist") or []]
    return {x.name: str(x.specifier) for x in lines if not x.marker}


def test_metadata_asks_for_neither_vllm_nor_torch(wheel: Path) -> None:
    """Catches a dependency for which pip would replace the user's XPU build."""
    archive = zipfile.ZipFile(wheel)
    info = f"vllm_xpu_fp8_plugin-{__version__}.dist-info"
    metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    required = requirements(metadata)
    # Nor does it for any of these: an upper bound would move what is installed.
    assert required.pop("rich") == ">=13"
    assert required
    assert not any(required.values())
    assert not {"vllm", "torch", "vllm-xpu-kernels"} & set(required)
    extras = set(metadata.get_all("Provides-Extra") or [])
    assert {"vllm", "emulation", "ipex", "plot", "test"} <= extras
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    points = archive.read(f"{info}/entry_points.txt").decode()
    assert "[vllm.platform_plugins]\nxpu_fp8 = vllm_xpu_fp8_plugin:register" in points


def test_every_import_is_declared(wheel: Path) -> None:
    """Catches a package that is imported and that nothing brings along.

    vLLM, its torch and kernel package are the user's. The commands do without each
    of the others that are named here, and say so.
    """
    brought = {"vllm", "torch", "vllm_xpu_kernels", "transformers", "huggingface_hub"}
    optional = {"matplotlib", "triton"}
    info = f"vllm_xpu_fp8_plugin-{__version__}.dist-info"
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(f"{info}/METADATA"))
    declared = set(requirements(metadata))
    imported = set()
    for path in (ROOT / "vllm_xpu_fp8_plugin").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    third = imported - set(sys.stdlib_module_names) - {"vllm_xpu_fp8_plugin"}
    assert third - brought - optional == declared


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
        timeout=240,
    )
    assert str(target) in done.stdout, done.stderr
    assert "VirtualXPUPlatform" in done.stdout


def test_command_is_installed() -> None:
    """Catches a console script that names a function which does not exist."""
    script = Path(sys.executable).parent / "vllm-xpu-fp8"
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == __version__
    done = subprocess.run([script, "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "--help"]])
def test_no_command_is_imported_to_choose_one(arguments: list[str]) -> None:
    """Catches a start that takes what a command needs, and fails without it."""
    code = """
import contextlib, sys
from vllm_xpu_fp8_plugin.cli import main
with contextlib.suppress(SystemExit):
    main(sys.argv[1:])
third = {m.partition(".")[0] for m in sys.modules} - set(sys.stdlib_module_names)
print("IMPORTED", *sorted(third & {"numpy", "torch", "tqdm", "vllm", "transformers"}))
"""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stdout.splitlines()[-1].strip() == "IMPORTED", done.stderr


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
    newest, *earlier = re.findall(
        r"^## (\S+) - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE
    )
    assert newest == __version__
    released = re.findall(r"^## (?!Unreleased$)", changelog, re.MULTILINE)
    assert len(earlier) == len(released) - 1
    kinds = set(re.findall(r"^### (.*)$", changelog, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert not (ROOT / "setup.py").exists()


def test_ci_runs_make_test() -> None:
    """Catches a CI that runs something other than what developers run."""
    assert re.search(r"\bmake test$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    done = subprocess.run(
        ["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True
    )
    for part in ("ruff check", "ruff format --check", "mypy", "pytest"):
        assert part in done.stdout
