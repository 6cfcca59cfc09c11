# SPDX-License-Identifier: Apache-2.0
"""``vllm-xpu-fp8 verify`` as a user runs it."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stranger import Stranger
from tests.verify.command import COMMAND, ROOT, environment, verify
from vllm_xpu_fp8_plugin.verify.inputs import builtin

KEYS = {
    "schema",
    "plugin_version",
    "verdict",
    "task",
    "alarms",
    "checks",
    "measures",
    "unit",
    "items",
    "texts_cut",
    "arms",
    "speed",
    "pairs",
    "model",
    "reference_model",
    "against",
    "flags",
    "data",
    "seed",
    "max_tokens",
    "reference_reused",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def arguments(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return what the runs have in common: data with a bad line, an engine's flag."""
    data = tmp_path_factory.mktemp("data") / "data.jsonl"
    with data.open("w") as file:
        for ranking in builtin().rankings[:6]:
            print(json.dumps(dataclasses.asdict(ranking)), file=file)
        print('{"query": "no documents"}', file=file)
        # Longer than the flag allows.
        print(json.dumps({"text": "A long text. " * 100}), file=file)
    flags = ["--", "--max-model-len", "150"]
    return [minilm, "--data", str(data), "--skip-bad", *flags]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    return Stranger(tmp_path_factory.mktemp("in") / "stranger")


@pytest.fixture(scope="module")
def passed(
    arguments: list[str], output: Path, stranger: Stranger
) -> subprocess.CompletedProcess[str]:
    """Verify a sound model as a CI job does, in a folder of a stranger's."""
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    return subprocess.run(
        [ROOT / "examples/verify_in_ci.sh", *arguments],
        cwd=stranger.folder,
        env=environment(
            PATH=path, REPORT=str(output), GITHUB_STEP_SUMMARY=f"{output}/summary.md"
        ),
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.slow
def test_sound_reranker_passes_in_ci(
    passed: subprocess.CompletedProcess[str], output: Path
) -> None:
    """Catches a false alarm, a table wider than 80 columns, a report that lacks."""
    assert passed.returncode == 0, passed.stderr
    assert "skipped" in passed.stderr
    assert "data.jsonl:7: 'documents' is missing" in passed.stderr
    lines = [line for line in passed.stdout.splitlines() if line != str(output)]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in passed.stdout
    assert "PASS: " in passed.stdout
    assert "cut to fit the model: 1 texts" in passed.stdout
    assert "Speed of the virtual XPU on this CPU; not an XPU's" in passed.stdout
    assert "PASS: " in (output / "summary.md").read_text()
    report = json.loads((output / "report.json").read_text())
    assert set(report) == KEYS
    assert report["task"] == "embed"
    assert report["arms"]["reference"]["quantization"] is None
    assert report["arms"]["candidate"]["quantization"] == "fp8"
    assert {arm["max_model_len"] for arm in report["arms"].values()} == {150}
    assert report["speed"]["emulated"] is True
    assert report["measures"]["spearman_mean"] > 0.97
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_nothing_of_the_current_folder_runs(
    passed: subprocess.CompletedProcess[str], stranger: Stranger
) -> None:
    """Catches a stranger's module in an arm, its workers or a script, or a setting."""
    assert passed.returncode == 0, passed.stderr
    assert stranger.has_run() == []
    assert "matplotlibrc" not in passed.stderr


@pytest.fixture
def _after_pass(passed: subprocess.CompletedProcess[str]) -> Iterator[None]:
    assert passed.returncode == 0, passed.stderr
    yield


@pytest.mark.slow
@pytest.mark.usefixtures("_after_pass")
def test_reference_is_reused_and_a_limit_changes_the_verdict(
    arguments: list[str], output: Path
) -> None:
    """Catches a reference that is run again, and --limit and --json without effect."""
    limit = "score_drift_mean=0.00001"
    given = ("--output", str(output), "--json", "--limit", limit)
    done = verify(*given, "--model", *arguments)
    assert done.returncode == 1, done.stderr
    assert "reference: starting" not in done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["reference_reused"] is True
    assert report["verdict"] == "drift"
    assert report["speed"] is None


BAD = [
    (["--model", "./no/such"], "no such folder"),
    (["--model", "MODEL", "--limit", "x=1"], "no measure is called 'x'"),
    (["--model", "MODEL", "--data", "none.jsonl"], "cannot read none.jsonl"),
    (["--model", "MODEL", "--data", "FILE"], "d.jsonl:1: not JSON"),
    (["--model", "MODEL", "--", "--quantization", "fp8"], "before the --"),
    (["--model", "MODEL", "--", "--kv_cache_dtype=fp8"], "before the --"),
    (["--model", "MODEL", "--max-tokens", "0"], "not a positive number"),
    (["--model", "MODEL", "--output", "FILE"], "File exists"),
    ([], "--model"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_end_before_anything_starts(
    arguments: list[str], message: str, minilm: str, tmp_path: Path
) -> None:
    """Catches a traceback, or engines started for what cannot work."""
    file = tmp_path / "d.jsonl"
    file.write_text("{\n")
    names = {"MODEL": minilm, "FILE": str(file)}
    done = verify(*(names.get(a, a) for a in arguments))
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "starting" not in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("_after_pass")
def test_interrupt_ends_an_arm(
    arguments: list[str], output: Path, tmp_path: Path
) -> None:
    """Catches an engine that is left behind by Ctrl-C, here the second arm's."""
    folder = shutil.copytree(output, tmp_path / "output")
    process = subprocess.Popen(
        [str(COMMAND), "verify", "--output", str(folder), "--model", *arguments],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if "candidate: starting the engine" in line:
            break
    time.sleep(1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=240)[1]
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not (folder / "report.json").exists(), "of the run before"


@pytest.mark.slow
def test_arm_that_cannot_start_is_named(minilm: str, tmp_path: Path) -> None:
    """Catches a failure without the arm's name and the end of its log."""
    done = verify("--model", minilm, "--output", str(tmp_path), "--", "--no-such-flag")
    assert done.returncode == 2
    assert "the reference arm ended with status" in done.stderr
    assert "unrecognized arguments: --no-such-flag" in done.stderr


def test_ci_script_without_a_model_says_how_it_is_used() -> None:
    """Catches a job that is green since it verified nothing."""
    script = ROOT / "examples" / "verify_in_ci.sh"
    done = subprocess.run([script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "usage: " in done.stderr
