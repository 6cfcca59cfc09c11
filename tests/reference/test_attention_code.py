# SPDX-License-Identifier: Apache-2.0
"""Attention's own compiled code on the virtual XPU, against its definition."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reference.attention_cases import BRAIN, CASES
from vllm_xpu_fp8_plugin import envs


@pytest.fixture(scope="module")
def errors() -> dict[str, tuple[float, float]]:
    """Run all cases in one process. The first time, their kernels are compiled."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.reference.attention_cases"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, envs.VIRTUAL_OPS.name: envs.COMPILED},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, tuple[float, float]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CASES)
def test_it_is_attention(name: str, errors: dict[str, tuple[float, float]]) -> None:
    """Catches an instruction with a wrong meaning, in any of its uses.

    Weights and results are rounded to the query's type, sums are float32.
    """
    error, largest = errors[name]
    unit = 2.0**-8 if CASES[name].dtype == BRAIN else 2.0**-11
    assert error <= unit * largest
