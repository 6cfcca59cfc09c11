# SPDX-License-Identifier: Apache-2.0
"""Processes of arms: they answer, fail with a reason, and never stay behind."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from vllm_xpu_fp8_plugin.verify import arm

ROOT = Path(__file__).parents[2]


def run(folder: Path, **request: Any) -> dict[str, Any]:
    stages: list[str] = []
    result = arm.run(
        arm.CANDIDATE,
        {"script": "tests.verify.fake_arm", **request},
        folder,
        lambda stage, done, total: stages.append(stage),
    )
    return {**result, "stages": stages}


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def assert_gone(pids: Path) -> None:
    """Fail if a process of the arm lives on; a zombie is not alive."""
    for _ in range(50):
        alive = [p for p in map(int, pids.read_text().split()) if _alive(p)]
        if not alive:
            return
        time.sleep(0.1)
    pytest.fail(f"still running: {alive}")


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_arm_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Catches lost results and progress, and workers that outlive their arm."""
    pids = tmp_path / "pids"
    result = run(tmp_path, do="answer", pids=str(pids))
    assert result["role"] == "candidate"
    assert math.isnan(result["nan"])
    assert result["stages"] == ["candidate: starting", "candidate: working"]
    assert_gone(pids)


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("raise", "candidate arm ended with status 1"),
        ("crash", "candidate arm ended by signal 11"),
    ],
)
def test_failed_arm_is_named_with_the_end_of_its_log(
    do: str, said: str, tmp_path: Path
) -> None:
    """Catches a failure without a reason, and a wait for a worker that lives on."""
    pids = tmp_path / "pids"
    with pytest.raises(arm.ArmError, match=said) as e:
        run(tmp_path, do=do, pids=str(pids))
    if do == "raise":
        assert str(e.value).endswith("ValueError: no such weight")
        assert "line 5\n" not in str(e.value)
    assert_gone(pids)


def test_arm_that_refuses_says_why_and_no_more(tmp_path: Path) -> None:
    """Catches a traceback for what a user asked for."""
    with pytest.raises(arm.ArmError) as e:
        run(tmp_path, do="refuse")
    assert str(e.value) == (
        "the candidate arm cannot run: nothing to verify. Give --quantization fp8."
    )


def test_stale_result_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    """Catches a crash after which an older result is read."""
    run(tmp_path, do="answer")
    with pytest.raises(arm.ArmError):
        run(tmp_path, do="raise")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_arm_ends_with_its_parent(number: int, tmp_path: Path) -> None:
    """Catches an engine that runs on after Ctrl-C, or when its parent was killed."""
    pids = tmp_path / "pids"
    code = f"""
from pathlib import Path
from tests.verify.test_arm import run
run(Path({str(tmp_path)!r}), do="hang", pids={str(pids)!r})
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not pids.exists() or not pids.read_text():
        assert parent.poll() is None, parent.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(parent.pid, number)
    error = parent.communicate(timeout=30)[1]
    assert ("KeyboardInterrupt" in error) == (number == signal.SIGINT)
    assert_gone(pids)


def test_key_knows_model_flags_data_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a reference that is reused although something changed."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    request: dict[str, Any] = {
        "model": str(model),
        "reference_model": None,
        "flags": [],
    }
    keys = [arm.key(request, {"vllm": "1"})]
    assert arm.key(dict(request), {"vllm": "1"}) == keys[0]
    keys.append(arm.key({**request, "flags": ["--dtype", "half"]}, {"vllm": "1"}))
    keys.append(arm.key({**request, "data": {"texts": ["a"]}}, {"vllm": "1"}))
    keys.append(arm.key(request, {"vllm": "2"}))
    (model / "config.json").write_text("{ }")
    keys.append(arm.key(request, {"vllm": "1"}))
    monkeypatch.setenv("VLLM_XPU_FP8_PLUGIN", "0")
    keys.append(arm.key(request, {"vllm": "1"}))
    assert len(set(keys)) == len(keys)
