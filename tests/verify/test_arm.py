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

from vllm_xpu_fp8_plugin import __version__
from vllm_xpu_fp8_plugin.verify import arm, machine

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


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return {"model": str(model), "reference_model": None, "flags": []}


def test_key_knows_model_flags_data_and_machine(asked: dict[str, Any]) -> None:
    """Catches a reference that is reused although something changed."""
    keys = [arm.key(asked, {"vllm": "1"})]
    assert arm.key(dict(asked), {"vllm": "1"}) == keys[0]
    keys.append(arm.key({**asked, "flags": ["--dtype", "half"]}, {"vllm": "1"}))
    keys.append(arm.key({**asked, "data": {"texts": ["a"]}}, {"vllm": "1"}))
    keys.append(arm.key(asked, {"vllm": "2"}))
    (Path(asked["model"]) / "config.json").write_text("{ }")
    keys.append(arm.key(asked, {"vllm": "1"}))
    (Path(asked["model"]) / "weights").write_text("")
    keys.append(arm.key(asked, {"vllm": "1"}))
    assert len(set(keys)) == len(keys)


def test_key_knows_when_a_file_of_the_model_was_written(asked: dict[str, Any]) -> None:
    """Catches new weights of the same size, taken for those that were run."""
    file = Path(asked["model"]) / "config.json"
    before = arm.key(asked, {})
    stat = file.stat()
    file.write_text("[]")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert file.stat().st_size == stat.st_size
    assert arm.key(asked, {}) != before


def test_key_is_of_the_model_that_the_reference_loads(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    """Catches a key by the FP8 checkpoint, where the reference loads another."""
    other = tmp_path / "other"
    other.mkdir()
    request = {**asked, "reference_model": str(other)}
    before = arm.key(request, {})
    (Path(asked["model"]) / "more").write_text("x")
    assert arm.key(request, {}) == before
    (other / "config.json").write_text("{}")
    assert arm.key(request, {}) != before


@pytest.mark.parametrize(
    "name", ["VLLM_XPU_FP8_PLUGIN", "ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"]
)
def test_key_knows_variables_that_choose_the_device(
    name: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a reference of one device, reused for another."""
    monkeypatch.delenv(name, raising=False)
    before = arm.key(asked, {})
    monkeypatch.setenv("UNRELATED", "1")
    assert arm.key(asked, {}) == before
    monkeypatch.setenv(name, "0")
    assert arm.key(asked, {}) != before


CHANGES = {
    "sys/class/drm/card0/device/device": "0xe20b",
    "sys/module/xe/srcversion": "ABC",
    "proc/driver/nvidia/version": "NVRM 570",
    "proc/sys/kernel/osrelease": "6.12.1",
    "proc/cpuinfo": "model name : Another",
}


@pytest.mark.parametrize("name", CHANGES)
def test_machine_is_known_by_its_devices_and_drivers(name: str, tmp_path: Path) -> None:
    """Catches a reference that outlives the driver or the card that made it."""
    before = machine.describe(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(CHANGES[name])
    assert machine.describe(tmp_path) != before


def test_machine_is_known_by_the_versions_of_its_libraries(tmp_path: Path) -> None:
    """Catches an update of the compute runtime or of the plugin that is not seen."""
    folder = tmp_path / "usr" / "lib" / "x86_64-linux-gnu"
    folder.mkdir(parents=True)
    link = folder / "libze_intel_gpu.so.1"
    found = []
    for number in ("1.6.1", "1.6.2"):
        (folder / f"libze_intel_gpu.so.{number}").touch()
        link.unlink(missing_ok=True)
        link.symlink_to(f"libze_intel_gpu.so.{number}")
        found.append(machine.describe(tmp_path))
    assert found[0] != found[1]
    assert found[0]["versions"]["vllm-xpu-fp8-plugin"] == __version__
    assert found[0]["versions"]["vllm"] != "not installed"
