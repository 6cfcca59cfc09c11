# SPDX-License-Identifier: Apache-2.0
"""Each command, from the installed wheel, where it may be needed most.

An environment holds what pip would install there: the wheel, which pip installs, and
what its metadata asks for, with all that this asks for in turn. These packages are
links to the ones that the suite runs with, which takes no download and is what pip
would unpack. So an import that is not declared fails here as it does for a user.
"""

import json
import re
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from benchmarks.startup import mirror
from tests.doctor.packages import kernel_wheel, once
from tests.wheel import build
from vllm_xpu_fp8_plugin import __version__
from vllm_xpu_fp8_plugin.virtual_xpu.build import cache_folder

EMPTY, TORCH, VLLM = "empty", "with torch", "with vLLM"


def required(names: Iterable[str]) -> dict[str, Distribution]:
    """Return the distributions of these names and all that they ask for."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def link(packages: dict[str, Distribution], site: Path) -> None:
    """Link each distribution's files into a site-packages, by their first part."""
    for package in packages.values():
        for top in {file.parts[0] for file in package.files or []} - {"..", "/"}:
            target = Path(str(package.locate_file(top)))
            if not (site / top).exists() and top != "__pycache__":
                (site / top).symlink_to(target)


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of the environments."""
    made: dict[str, Path]
    made = once(tmp_path_factory, "environments", lambda: _make(tmp_path_factory))
    return made


def _make(factory: pytest.TempPathFactory) -> dict[str, Path]:
    wheel = build(factory)
    root = factory.mktemp("environments")
    made = {}
    for name in (EMPTY, TORCH, VLLM):
        folder = root / name.replace(" ", "_")
        venv.create(folder, symlinks=True)
        site = next(folder.glob("lib/python3.*/site-packages"))
        if name == VLLM:
            site.rmdir()
            mirror(site, with_plugin=False)
        elif name == TORCH:
            link(required(["torch"]), site)
        install = [sys.executable, "-m", "pip", "--python", str(folder), "install"]
        subprocess.run(
            [*install, "-q", "--no-deps", "--no-compile", str(wheel)], check=True
        )
        asked = _ask(folder, "from importlib.metadata import requires as r; ")
        link(required(asked), site)
        made[name] = folder
    return made


def _ask(folder: Path, start: str) -> list[str]:
    """Return the names of what the plugin, as installed there, asks for."""
    code = f"{start}print(*r('vllm-xpu-fp8-plugin'), sep='\\n')"
    done = subprocess.run(
        [folder / "bin/python", "-c", code], capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if "extra ==" not in line]
    return [Requirement(line).name for line in lines]


def run(
    environment: Path, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user of that environment does."""
    done = subprocess.run(
        [environment / "bin/vllm-xpu-fp8", *arguments],
        # What the virtual XPU compiles is compiled already.
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(environment),
            "VLLM_XPU_FP8_CACHE": str(cache_folder()),
            **environ,
        },
        cwd=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    # What vLLM's own log says of a wrong flag is in a file.
    assert "Traceback" not in done.stdout + done.stderr
    return done


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    report = json.loads(done.stdout)
    return {c["name"]: c for s in report["sections"] for c in s["checks"]}


ALL = pytest.mark.parametrize(
    "name", [EMPTY, TORCH, pytest.param(VLLM, marks=pytest.mark.slow)]
)


@ALL
def test_version_and_help(name: str, environments: dict[str, Path]) -> None:
    """Catches an import of something undeclared before a command is chosen."""
    assert run(environments[name], "--version").stdout.strip() == __version__
    for arguments in ([], ["doctor"], ["verify"]):
        done = run(environments[name], *arguments, "--help")
        assert done.returncode == 0
        assert "usage: vllm-xpu-fp8" in done.stdout


@pytest.mark.parametrize("name", [EMPTY, TORCH])
def test_doctor_says_first_of_all_what_is_missing(
    name: str, environments: dict[str, Path], minilm: str
) -> None:
    """Catches a traceback, or "nothing wrong", where vLLM or torch is missing."""
    done = run(environments[name], "doctor", "--json", VLLM_XPU_FP8_PLUGIN="1")
    assert done.returncode == 1
    found = checks(done)
    assert "not installed" in found["version"]["finding"]
    assert found["version"]["status"] == "problem"
    assert found["torch"]["status"] == ("problem" if name == EMPTY else "ok")
    assert found["decision"]["status"] == "problem"
    assert "No module named 'vllm'" in found["decision"]["finding"]
    printed = run(environments[name], "doctor", "--model", minilm)
    assert printed.returncode == 1
    assert "vLLM is not installed" in printed.stdout
    assert "BertModel, an encoder" in printed.stdout


@ALL
def test_doctor_looks_at_another_machines_packages(
    name: str, environments: dict[str, Path], minilm: str
) -> None:
    """Catches a need for vLLM or torch where neither is asked for anything.

    And, where they are, a wheel that vLLM does not find, or that lacks the probes.
    """
    wheel = str(kernel_wheel("0.1.14.1"))
    given = ("doctor", "--json", "--kernels", wheel, "--model", minilm, "-q", "fp8")
    environ = {"VLLM_XPU_FP8_PLUGIN": "emulate"} if name == VLLM else {}
    done = run(environments[name], *given, **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    found = checks(done)
    assert found["attention"]["data"]["verdict"] == "compiled kernel"
    assert found["linear"]["data"]["values"] == 10616832
    if name == VLLM:
        assert found["platform"]["finding"] == "vLLM resolves VirtualXPUPlatform"
    else:
        assert found["version"]["status"] == "note"


@ALL
def test_verify_says_what_it_lacks(
    name: str, environments: dict[str, Path], minilm: str
) -> None:
    """Catches a traceback, and an arm that does not start from an installed wheel."""
    arguments = ["verify", "--model", minilm, "--", "--no-such-flag"]
    done = run(environments[name], *arguments, VLLM_XPU_FP8_PLUGIN="emulate")
    assert done.returncode == 2
    if name == VLLM:
        assert "unrecognized arguments: --no-such-flag" in done.stderr
    else:
        expected = r"verify: vllm is not installed .* with the Python that runs vLLM\."
        assert re.search(expected, done.stderr)
        assert not (environments[name] / "verify-report").exists()


def start(environment: Path, script: str, **options: Any) -> tuple[int, str]:
    """Run a line of a shell in which `$0` is the command; return status and stderr."""
    done = subprocess.run(
        ["sh", "-c", script, environment / "bin/vllm-xpu-fp8"],
        env={"PATH": "/usr/bin:/bin", "HOME": "/proc", **options},
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stderr


def test_nobody_reads_the_output(environments: dict[str, Path]) -> None:
    """Catches a traceback for `| head`, a closed stdout or a full disk."""
    here = environments[EMPTY]
    # The pipe's other end is closed before anything is written.
    status, error = start(
        here, 'mkfifo "$F"; : <"$F" & exec "$0" doctor >"$F"', F=str(here / "pipe")
    )
    assert (status, error) == (141, "")
    assert start(here, 'exec "$0" doctor >&-') == (1, "")
    status, error = start(here, 'exec "$0" doctor >/dev/full')
    assert (status, error) == (2, "vllm-xpu-fp8: [Errno 28] No space left on device\n")


def test_a_folder_that_was_deleted_and_a_terminal_without_columns(
    environments: dict[str, Path], tmp_path: Path
) -> None:
    """Catches a probe that does not start there, and a report that shows nothing."""
    gone = tmp_path / "gone"
    script = 'mkdir "$G"; cd "$G"; rmdir "$G"; exec "$0" doctor >"$OUT"'
    out = tmp_path / "out"
    given = {"G": str(gone), "OUT": str(out), "COLUMNS": "0"}
    assert start(environments[EMPTY], script, **given) == (1, "")
    assert "vLLM is not installed" in " ".join(out.read_text().split())
