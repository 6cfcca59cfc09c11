# SPDX-License-Identifier: Apache-2.0
"""docs/findings.md: the scripts, and the table of releases that have the faults."""

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.reference.ops import release
from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.kernel_package import installed, python_layer

DOCS = (Path(__file__).parents[2] / "docs/findings.md").read_text()
PREAMBLE, *SCRIPTS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)

# A word of each script -> what it prints where the fault is; a number where it dies.
FAULTS = {
    "31999": r"tensor\(0\.6[4-9]",
    "expand(2, 8)": r"tensor\(\[1\.0000, 1\.0000\]",
    "x.float()": r"tensor\(0\.[4-7]",
    "keys.unique": r"tensor\(\[3\]",
    '"auto"': r"tensor\(\[68\.\]",
    "scale.max": r"tensor\([1-3]\.",
    "quant_mxfp4": r"3 5$",
    "moe_lora": r"tensor\(\[0\]",
    "exponential": r"tensor\(\[998, 999\]",
    "scaling_rope": r"tensor\(1\.",
    "inv_rope": r"tensor\(\[0\., 4\., 0\.\]",
    "rows[20]": r"tensor\(\[1\.\]",
    "torch.nan": r"tensor\(True",
    "q_descale": r"tensor\(True",
    "rotary_embedding": -signal.SIGFPE,
    "zeros(0, 8), torch.empty(0, 8, dtype=E4M3)": -signal.SIGFPE,
}
# A word of a script -> the first release without the fault.
GONE = {
    "31999": (0, 1, 15, 4),
    "expand(2, 8)": (0, 1, 15, 4),
    "exponential": (0, 1, 15, 4),
    "zeros(0, 8), torch.empty(0, 8, dtype=E4M3)": (0, 1, 16, 2),
}


def test_every_script_is_run() -> None:
    """Catches a finding that is added without its test."""
    assert all(sum(word in s for s in SCRIPTS) == 1 for word in FAULTS)
    assert len(SCRIPTS) == len(FAULTS)


def run(script: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a script prints."""
    try:
        exec(PREAMBLE + script, {})
    finally:
        torch.set_default_device(None)
    return capsys.readouterr().out


def run_attention(script: str) -> str:
    """Return what a script prints where attention is its own compiled code."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        env={**os.environ, envs.VIRTUAL_OPS.name: envs.COMPILED},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout


def query_descale() -> str:
    """Return what the installed package's Python layer does with one."""
    source = installed.package_dir() / "flash_attn_interface.py"
    return python_layer.examine(source.read_text()).query_descale


def dies(script: str) -> int:
    """Return the exit status of a script's own process."""
    command = [sys.executable, "-c", f"{PREAMBLE}{script}\ntorch.xpu.synchronize()"]
    return subprocess.run(command, timeout=240, check=False).returncode


@pytest.mark.parametrize("word", FAULTS)
def test_a_finding_is_as_written(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a fault that the docs describe and that is not there."""
    [script] = [s for s in SCRIPTS if word in s]
    if word == "q_descale" and query_descale() == python_layer.REFUSED:
        pytest.skip("the installed kernel package refuses a query descale")
    fault, is_there = FAULTS[word], release() < GONE.get(word, (math.inf,))
    if isinstance(fault, int):
        assert dies(script) == (fault if is_there else 0)
    elif "flash_attn" in script:
        assert bool(re.match(fault, run_attention(script))) == is_there
    else:
        torch.manual_seed(0)
        assert bool(re.match(fault, run(script, capsys))) == is_there
