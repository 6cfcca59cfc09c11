# SPDX-License-Identifier: Apache-2.0
"""Installations that are broken on purpose, each looked at by the real command."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from benchmarks.startup import NAME, mirror
from tests.doctor.packages import kernel_package
from vllm_xpu_fp8_plugin.doctor.checks import kernels
from vllm_xpu_fp8_plugin.doctor.report import Status
from vllm_xpu_fp8_plugin.kernel_package import python_layer

ROOT = Path(__file__).parent.parent.parent
MAIN = "import sys; from vllm_xpu_fp8_plugin.cli import main; sys.exit(main())"

Checks = dict[str, list[dict[str, Any]]]


def doctor(
    *path: Path, python: Path | str = sys.executable, **environ: str
) -> tuple[int, Checks]:
    """Return the command's exit status and its checks by name.

    `path` goes before the real site-packages, `environ` in place of all ``VLLM_*``.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, path)), **environ}
    done = subprocess.run(
        [python, "-c", MAIN, "doctor", "--json"],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    checks: Checks = {}
    for section in json.loads(done.stdout)["sections"]:
        for check in section["checks"]:
            checks.setdefault(check["name"], []).append(check)
    return done.returncode, checks


def distribution(folder: Path, entry_points: str, **modules: str) -> Path:
    """Write an installed distribution with platform plugins."""
    info = folder / "others-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: others\nVersion: 1.0\n")
    text = f"[vllm.platform_plugins]\n{entry_points}"
    (info / "entry_points.txt").write_text(text)
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    return folder


@pytest.mark.slow
def test_other_platform_plugins(tmp_path: Path) -> None:
    """Catches plugins in each other's way: vLLM swallows why one of them fails."""
    others = distribution(
        tmp_path / "others",
        "second = active:register\nxpu = failing:register\n",
        active="def register():\n    return 'vllm.platforms.cpu.CpuPlatform'\n",
        failing="def register():\n    raise ImportError('no libfoo.so')\n",
    )
    status, checks = doctor(
        ROOT, others, VLLM_XPU_FP8_PLUGIN="emulate", VLLM_XPU_FP8_PLUGINS="1"
    )
    assert status == 1
    assert checks["conflict"][0]["status"] == "problem"
    assert "second" in checks["conflict"][0]["finding"]
    assert "'xpu'" in checks["name_clash"][0]["finding"]
    texts = [c["finding"] for c in checks["other_plugin"]]
    assert any("ImportError: no libfoo.so" in text for text in texts)
    tracebacks = [c["data"].get("traceback") or "" for c in checks["other_plugin"]]
    assert any("failing.py" in text for text in tracebacks)
    assert checks["platform"][0]["status"] == "problem"
    assert "VLLM_XPU_FP8_PLUGINS" in checks["unknown_variable"][0]["finding"]


@pytest.mark.slow
def test_plugin_left_out_and_kernels_damaged(tmp_path: Path) -> None:
    """Catches a filter that keeps the plugin out, and a package that is half there."""
    broken = tmp_path / "vllm_xpu_kernels"
    broken.mkdir()
    for name in ("__init__.py", "_vllm_fa2_C.abi3.so", "flash_attn_interface.py"):
        (broken / name).write_text("")
    status, checks = doctor(
        ROOT,
        tmp_path,
        VLLM_XPU_FP8_PLUGIN="emulate",
        VLLM_PLUGINS="other",
        VLLM_XPU_FP8_PLUGINS="1",
    )
    assert status == 1
    left_out = checks["vllm_plugins"][0]
    assert left_out["status"] == "problem"
    assert left_out["remedy"] == "Add it: VLLM_PLUGINS=other,xpu_fp8"
    assert checks["platform"][0]["status"] == "problem"
    assert checks["loads"][0]["status"] != "ok"
    assert "_vllm_fa2_C" in checks["loads"][0]["data"]["errors"]
    assert checks["compiled"][0]["status"] == "warning"
    assert checks["supported"][0]["status"] == "problem"


@pytest.mark.slow
def test_no_entry_point_and_a_vllm_that_is_too_old(tmp_path: Path) -> None:
    """Catches a plugin that vLLM cannot know of, beside a vLLM without its backend."""
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    rest = mirror(tmp_path / "rest", with_plugin=False, without="vllm")
    (rest / NAME).symlink_to(ROOT / NAME)
    (rest / "vllm").mkdir()
    (rest / "vllm/__init__.py").write_text("")
    info = rest / "vllm-0.9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: vllm\nVersion: 0.9.0\n")
    status, checks = doctor(
        rest, python=environment / "bin/python", VLLM_XPU_FP8_PLUGIN="yes"
    )
    assert status == 1
    assert checks["entry_point"][0]["status"] == "problem"
    assert "pip install" in checks["entry_point"][0]["remedy"]
    assert "'yes'" in checks["decision"][0]["finding"]
    assert checks["version"][0]["finding"].startswith("vLLM 0.9.0")
    assert checks["supported"][0]["status"] == "problem"
    assert "0.20" in checks["supported"][0]["remedy"]
    assert checks["provider"][0]["status"] == "warning"
    assert checks["platform"][0]["status"] == "problem"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("ImportError: undefined symbol: _ZN3c10", "requirements/xpu.txt"),
        ("ImportError: libsycl.so.9: cannot open", "libsycl.so.9"),
        ("ImportError: libze_loader.so.1: cannot open", "driver"),
    ],
)
def test_libraries_that_do_not_load_on_an_xpu_build(error: str, remedy: str) -> None:
    """Catches a wrong torch and a missing library that get the same advice."""
    package = kernel_package("0.1.14.1")
    answers = {
        "torch": {"version": "2.10.0+xpu", "xpu": "20250302"},
        "kernels": {"libraries": ["_C"], "errors": {"_C": error}},
        "decision": {"requested": "on"},
    }
    layer = python_layer.examine(package.interface)
    checks = {c.name: c for c in kernels.check(package, layer, "xe2", answers, None)}
    assert checks["loads"].status is Status.PROBLEM
    assert error in checks["loads"].finding
    assert remedy in checks["loads"].remedy
