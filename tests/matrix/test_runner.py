# SPDX-License-Identifier: Apache-2.0
"""The matrix' runner, without downloads and without a vLLM of another release."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.matrix import __main__ as matrix
from tests.matrix import environments, results

PARTS: dict[str, dict[str, Any]] = {
    "contract": {
        "torch": "2.13.0",
        "checks": {"one": None, "two": None},
        "adjustments": [],
    },
    "upstream": {"refusal": None},
    "rerank": {"error": None, "spearman": 0.99, "ops": []},
}


class Maker(environments.Maker):
    """Makes environments of folders that are not there."""

    def make(self, vllm: str, kernels: str) -> environments.Environment:
        if vllm == "0.0":
            raise environments.NotInstallableError("no wheel")
        if vllm == "0.1":
            raise environments.TimeIsUpError("the time is up")
        return environments.Environment({}, [])


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Return what the parts of a run find."""
    found = {name: dict(value) for name, value in PARTS.items()}
    monkeypatch.setattr(matrix, "_part", lambda name, environment: found[name])
    monkeypatch.setattr(matrix, "Maker", Maker)
    return found


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["matrix", *map(str, arguments)])
    return matrix.main()


def test_what_cannot_be_installed_is_not_passed(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a missing wheel, or one not yet downloaded, reported as passed."""
    options = ("--vllm", "0.0,0.1", "--kernels", "1", "--output", tmp_path)
    assert run(monkeypatch, *options) == 0
    (cell,) = results.load(tmp_path).values()
    assert (cell["status"], cell["error"]) == (results.NOT_INSTALLABLE, "no wheel")


def test_an_upstream_that_does_not_import_is_a_result_of_its_own(
    parts: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a pair refused by upstream that counts as passed, or as ours to fix."""
    parts["contract"]["checks"] = {"one": None, "two": "ImportError: gone"}
    options = ("--vllm", "1", "--kernels", "1", "--output", tmp_path)
    assert run(monkeypatch, *options) == 1
    (cell,) = results.load(tmp_path).values()
    assert (cell["status"], cell["error"]) == (results.FAILED, "two: ImportError: gone")
    parts["upstream"]["refusal"] = "ImportError: gone"
    monkeypatch.setattr(matrix, "_sources", lambda: "changed")
    assert run(monkeypatch, *options) == 0
    (cell,) = results.load(tmp_path).values()
    assert (cell["status"], cell["error"]) == (results.REFUSED, "ImportError: gone")


def test_a_wrong_engine_fails_the_run(
    parts: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an engine's error that the exit status does not show."""
    parts["rerank"] = {"error": "AssertionError: Spearman 0.1"}
    options = ("--vllm", "1", "--kernels", "1", "--rerank", "--output", tmp_path)
    assert run(monkeypatch, *options) == 1
    (cell,) = results.load(tmp_path).values()
    assert not results.has_passed(cell)


def test_a_run_goes_on_where_it_stopped(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches work done twice, and results kept though the sources have changed."""
    made: list[tuple[str, str]] = []

    def make(self: Maker, vllm: str, kernels: str) -> environments.Environment:
        made.append((vllm, kernels))
        return environments.Environment({}, [])

    monkeypatch.setattr(Maker, "make", make)
    options = ("--vllm", "1,2", "--kernels", "1", "--output", tmp_path)
    run(monkeypatch, "--vllm", "1", *options[2:])
    run(monkeypatch, *options)
    assert made == [("1", "1"), ("2", "1")]
    run(monkeypatch, *options, "--rerank")
    assert len(made) == 4
    run(monkeypatch, *options)
    assert len(made) == 4
    assert all(cell["rerank"] for cell in results.load(tmp_path).values())
    monkeypatch.setattr(matrix, "_sources", lambda: "changed")
    run(monkeypatch, *options)
    assert len(made) == 6


def test_a_process_that_dies_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a crash of a combination's process that is taken for success."""
    folders = {"vllm": tmp_path, "vllm-xpu-kernels": tmp_path}
    environment = environments.Environment(folders, [])
    found = matrix._part("no such part", environment)
    assert "ended with 1: KeyError" in found["error"]


def test_contract_finds_a_release_that_is_not_the_one_asked_for(tmp_path: Path) -> None:
    """Catches a combination run with what is installed instead of what it names."""
    folders = {"vllm": tmp_path / "vllm-0.0", "vllm-xpu-kernels": tmp_path / "k"}
    environment = environments.Environment(folders, [])
    checks = matrix._part("contract", environment)["checks"]
    failed = {name for name, error in checks.items() if error}
    assert failed == {"releases_are_the_ones_asked_for"}, json.dumps(checks, indent=1)


def test_ci_runs_the_oldest_and_newest_and_says_what_it_skips(
    parts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a CI that leaves the supported range untested without a word."""
    command = (environments.ROOT / ".ci/run").read_text().splitlines()[-1].split()
    assert command[:3] == [".venv/bin/python", "-m", "tests.matrix"]
    cell = {"checks": {}, "rerank": None, "status": results.PASSED}
    cells = {
        (vllm, kernels): {**cell, "vllm": vllm, "kernels": kernels}
        for vllm in ("0.1", "0.9", "0.10")
        for kernels in ("0.1.9", "0.1.10")
    }
    cells["0.10", "0.1.10"]["status"] = results.REFUSED
    monkeypatch.setattr(results, "load", lambda folder=None: {} if folder else cells)
    options = [tmp_path if "/" in word else word for word in command[3:]]
    assert run(monkeypatch, *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "vLLM 0.1, kernels 0.1.10: skipped" in lines
    assert "vLLM 0.10, kernels 0.1.9: passed (torch 2.13.0)" in lines
    assert lines[-2:] == ["1 passed", "1 skipped"]


def test_downloads_end_with_the_budget() -> None:
    """Catches a CI that waits for a slow registry."""
    with pytest.raises(environments.TimeIsUpError, match=r"vllm==0\.0\.0 is not"):
        environments.Maker(seconds=0).make("0.0.0", "0.0.0")
