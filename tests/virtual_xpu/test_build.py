# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.virtual_xpu.build, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.virtual_xpu.processes import ENABLE, assert_refused, run
from vllm_xpu_fp8_plugin import virtual_xpu
from vllm_xpu_fp8_plugin.virtual_xpu import build, intel

virtual_xpu.enable()

# Hands out what was compiled before, by name; slowly, so that others look meanwhile.
SLOW_COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
case $2 in
    *.o) sleep 1; : > "$2" ;;
    *) cp "{folder}/${{2##*/}}" "$2" ;;
esac
"""


def compiler(path: Path, script: str) -> str:
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CXX", "/no/such/compiler", "apt-get install g++"),
        ("VLLM_XPU_FP8_CACHE", "/dev/null/cache", "Set VLLM_XPU_FP8_CACHE"),
    ],
)
def test_what_is_missing_is_said_and_no_device_is_there(
    name: str, value: str, message: str
) -> None:
    """Catches a traceback, and half of a device."""
    assert_refused(name, value, message)


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    """Catches a message without what the compiler said."""
    script = "#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2\nexit 1\n"
    wrong = compiler(tmp_path / "g++", script)
    out = run(CXX=wrong, VLLM_XPU_FP8_CACHE=str(tmp_path / "cache"))
    assert "x.cpp:1: error: no such thing" in out
    assert "C++20" in out
    assert "DEVICES 0 No virtual XPU" in out


def test_a_disk_that_fills_up_is_said_and_is_not_the_compilers_fault(
    tmp_path: Path,
) -> None:
    """Catches advice to install another compiler where the disk is full."""
    script = "#!/bin/sh\necho 'int f() {return 1;}' | g++ -x c++ -c - -o /dev/full\n"
    full = compiler(tmp_path / "g++", script)
    out = run(CXX=full, VLLM_XPU_FP8_CACHE=str(tmp_path / "cache"))
    assert "No space left on device" in out
    assert "Set VLLM_XPU_FP8_CACHE to a folder that can" in out
    assert "C++20" not in out
    (left,) = (tmp_path / "cache" / "device").iterdir()
    assert left.suffix == ".lock"


def test_eight_processes_make_the_libraries_once(tmp_path: Path) -> None:
    """Catches processes that load what another is still writing."""
    made = build.libraries(intel.find()[0])
    slow = compiler(tmp_path / "g++", SLOW_COMPILER.format(folder=made))
    cache = tmp_path / "cache"
    environ = {"CXX": slow, "VLLM_XPU_FP8_CACHE": str(cache)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ENABLE],
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    assert all("DEVICES 2 Virtual Intel GPU" in out for out, _ in outputs), outputs
    assert sum("Compiling" in err for _, err in outputs) == 1
    (folder,) = [f for f in (cache / "device").iterdir() if f.is_dir()]

    # What is damaged goes, so that the next start makes it anew, and is said.
    (folder / "libvirtual_xpu.so").write_bytes(b"not a library")
    broken = run(**environ)
    assert "do not load" in broken
    assert "compiled anew at the next start" in broken
    assert not folder.exists()
