# SPDX-License-Identifier: Apache-2.0
"""``vllm-xpu-fp8 verify`` as a user runs it."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.verify.command import COMMAND, environment, verify

KEYS = {
    "schema",
    "plugin_version",
    "verdict",
    "task",
    "alarms",
    "checks",
    "measures",
    "items",
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
def passed(minilm: str, output: Path) -> subprocess.CompletedProcess[str]:
    """Verify a sound model with the defaults."""
    return verify("--model", minilm, "--output", str(output))


@pytest.mark.slow
def test_sound_reranker_passes(
    passed: subprocess.CompletedProcess[str], output: Path
) -> None:
    """Catches a false alarm, a table wider than 80 columns, a report that lacks."""
    assert passed.returncode == 0, passed.stderr
    lines = [line for line in passed.stdout.splitlines() if line != str(output)]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in passed.stdout
    assert "PASS: " in passed.stdout
    assert "Speed of the software XPU on this CPU; not an XPU's" in passed.stdout
    report = json.loads((output / "report.json").read_text())
    assert set(report) == KEYS
    assert report["task"] == "embed"
    assert report["arms"]["reference"]["quantization"] is None
    assert report["arms"]["candidate"]["quantization"] == "fp8"
    assert report["speed"]["emulated"] is True
    assert report["measures"]["spearman_mean"] > 0.99
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def _after_pass(passed: subprocess.CompletedProcess[str]) -> Iterator[None]:
    assert passed.returncode == 0
    yield


@pytest.mark.slow
@pytest.mark.usefixtures("_after_pass")
def test_reference_is_reused_and_a_limit_changes_the_verdict(
    minilm: str, output: Path
) -> None:
    """Catches a reference that is run again, and --limit and --json without effect."""
    limit = "spearman_mean=0.99999"
    done = verify(
        "--model", minilm, "--output", str(output), "--json", "--limit", limit
    )
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
def test_interrupt_ends_both_arms(minilm: str, tmp_path: Path) -> None:
    """Catches an engine that is left behind by Ctrl-C."""
    process = subprocess.Popen(
        [str(COMMAND), "verify", "--model", minilm, "--output", str(tmp_path / "o")],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if "starting the engine" in line:
            break
    time.sleep(1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--quantization", "fp9"], "fp9"),
    ],
)
def test_arm_that_cannot_start_is_named(
    arguments: list[str], message: str, minilm: str, tmp_path: Path
) -> None:
    """Catches a failure without the arm's name and the end of its log."""
    done = verify("--model", minilm, "--output", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert "the reference arm ended with status" in done.stderr
    assert message in done.stderr
