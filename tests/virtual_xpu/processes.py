# SPDX-License-Identifier: Apache-2.0
"""Processes of their own, in which a virtual XPU comes up."""

import os
import subprocess
import sys

ENABLE = """
from vllm_xpu_fp8_plugin import virtual_xpu
try:
    virtual_xpu.enable()
except virtual_xpu.VirtualXPUError as e:
    print("REFUSED", e)
import torch
print("DEVICES", torch.xpu.device_count(), virtual_xpu.description())
"""


def run(code: str = ENABLE, **environ: str) -> str:
    """Return what a process prints, which must not fail."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_refused(name: str, value: str, message: str) -> None:
    """Fail unless a variable's value is refused, with a reason and without a device."""
    out = run(**{name: value})
    assert "REFUSED" in out
    assert message in out
    assert value in out
    assert "DEVICES 0 No virtual XPU" in out
