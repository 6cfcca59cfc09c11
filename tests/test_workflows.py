# SPDX-License-Identifier: Apache-2.0
"""What GitHub runs: workflows without logic, and the scripts that they call."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.wheel import ROOT, environment
from vllm_xpu_fp8_plugin import vllm_releases

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in FOLDER.glob("*")}
STEPS = [
    (f"{name}.{job}", step)
    for name, workflow in WORKFLOWS.items()
    for job, content in workflow["jobs"].items()
    for step in content["steps"]
    if "run" in step
]


@pytest.mark.parametrize(("job", "step"), STEPS)
def test_a_step_calls_what_is_here_and_decides_nothing(
    job: str, step: dict[str, Any]
) -> None:
    """Catches logic that only GitHub would run, and a target or script that is gone."""
    line = step["run"]
    assert "\n" not in line
    assert "if" not in step
    assert not re.search(r"[;|&<>]|\$\(", line)
    program, *words = line.split()
    if program == "make":
        done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
    elif program == "pip":
        assert words[0] == "install"
    else:
        assert os.access(ROOT / program, os.X_OK), job


def test_every_job_ends_and_asks_for_no_more_than_it_needs() -> None:
    """Catches a job that runs for six hours, and a token that may write everything."""
    for name, workflow in WORKFLOWS.items():
        assert set(workflow["permissions"]) <= {"contents", "issues"}, name
        assert workflow["permissions"]["contents"] == "read"
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"] <= 90


def test_only_a_tag_releases_and_without_a_password() -> None:
    """Catches a publish step that a branch could reach, or that needs a secret."""
    release = WORKFLOWS["release"]
    # YAML 1.1 reads the key `on` as true.
    assert release[True] == {"push": {"tags": ["v*"]}}
    assert release["jobs"]["publish"]["needs"] == "build"
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (FOLDER / "release.yml").read_text()
    steps = [step.get("run", "") for step in release["jobs"]["build"]["steps"]]
    order = ["release_version", "audit", "build_dist", "smoke_dist"]
    found = [name for line in steps for name in order if f"scripts/{name}.sh" in line]
    assert found == order


def test_all_supported_pythons_are_tested() -> None:
    """Catches a Python that is promised and not tested."""
    pythons = WORKFLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">={pythons[0]}"' in pyproject
    assert pythons == ["3.10", "3.11", "3.12", "3.13"]


def newest(folder: Path, status: int, found: int) -> tuple[int, list[str]]:
    """Run newest.sh with a suite of a given end, and return what `gh` was told.

    GitHub's command is not here, nor is GitHub: a script notes its arguments.
    """
    told = folder / "told"
    for name, text in {
        "gh": f'echo "$*" >>{told}\n[ "$2" = list ] && echo {found} || true',
        "suite": f'echo "$*" >>{told}\nexit {status}',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    env = {
        **environment(),
        "VLLM": vllm_releases.NEWEST_TESTED,
        "KERNELS": "0.1.16.2",
        "MATRIX": str(folder / "suite"),
        "GH_TOKEN": "x",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    done = subprocess.run([ROOT / "scripts" / "newest.sh"], env=env)
    return done.returncode, told.read_text().splitlines()


@pytest.mark.parametrize(
    ("status", "found", "created"),
    [(0, 0, False), (1, 0, True), (1, 1, False), (2, 0, False)],
)
def test_a_failing_newest_release_opens_one_issue(
    status: int, found: int, created: bool, tmp_path: Path
) -> None:
    """Catches an issue each week, one for a run without a result, and a lost status."""
    ended, told = newest(tmp_path, status, found)
    assert ended == status
    versions = f"--vllm {vllm_releases.NEWEST_TESTED} --kernels 0.1.16.2"
    assert told[0] == f"{versions} --rerank --output .matrix/newest"
    assert any(line.startswith("issue create") for line in told) == created
    if created:
        assert f"vLLM {vllm_releases.NEWEST_TESTED} with vllm-xpu-kernels" in told[-1]


def test_pre_commit_has_the_tools_of_lint() -> None:
    """Catches a tool that only one of them runs."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    done = subprocess.run(
        ["make", "-n", "lint"], cwd=ROOT, capture_output=True, text=True
    )
    tools = ["ruff check", "ruff format --check", "clang-format", "mypy", "shellcheck"]
    for tool in [*tools, "lint_workflows.sh"]:
        assert tool in done.stdout
        assert any(tool in entry for entry in entries), tool
