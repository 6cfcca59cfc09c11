# SPDX-License-Identifier: Apache-2.0
"""Compiled ops beside attention that use Xe2 instructions, against definitions."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_xpu_fp8_plugin import envs


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Run all in one process. The first time, their kernels are compiled."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.reference.xe2_cases"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, envs.VIRTUAL_OPS.name: envs.COMPILED},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results: dict[str, Any] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize("name", ["mqa_logits", "paged_mqa_logits"])
def test_logits_of_an_indexer(name: str, found: dict[str, Any]) -> None:
    """Catches sub-groups along the wrong dimension: launches are of 1 x 64 items.

    FP8 products are exact in bfloat16, sums are float32.
    """
    assert found[name] <= 1e-5


@pytest.mark.parametrize(
    ("name", "bound"), [("mhc_pre, 3 tokens", 2e-4), ("mhc_pre, 130 tokens", 5e-4)]
)
def test_mixes_of_hyper_connections(
    name: str, bound: float, found: dict[str, Any]
) -> None:
    """Catches a 2D block of each lane's own. From 128 tokens on sums are of tf32."""
    assert found[name] <= bound


def test_what_a_cpu_would_compute_wrongly_is_refused(found: dict[str, Any]) -> None:
    """Catches an output of a convolution that is left as it was."""
    assert "a prefill of 96 features a key head" in found["small heads"]
