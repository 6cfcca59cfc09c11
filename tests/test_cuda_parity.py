# SPDX-License-Identifier: Apache-2.0
"""What the repository says about CUDA is what was measured on a GPU."""

import json
from pathlib import Path

from benchmarks.cuda_parity import ARMS, WORKLOADS, markdown_table, passed, ratios

ROOT = Path(__file__).parent.parent
REPORT = json.loads((ROOT / "benchmarks/cuda_parity.json").read_text())


def test_report_agrees_with_its_own_measurements() -> None:
    """Catches a verdict or a ratio that does not follow from the timed runs."""
    assert set(REPORT["workloads"]) == set(WORKLOADS)
    for result in REPORT["workloads"].values():
        assert set(result["seconds"]) == set(ARMS)
        assert min(map(len, result["seconds"].values())) >= 5
        assert result["throughput_ratio"] == ratios(result["seconds"])
        assert passed(result)
    assert REPORT["passed"]


def test_a_difference_does_not_pass() -> None:
    """Catches a verdict that cannot be negative."""
    sound = REPORT["workloads"]["encoder"]
    for change in (
        {"platform": "vllm_xpu_fp8_plugin.platform.XPUFp8Platform"},
        {"bit_identical": False},
        {"same_kernels": False},
        {"kernel_launches": 0},
        {"throughput_ratio": {"installed_on": 0.97}},
    ):
        assert passed(sound)
        assert not passed({**sound, **change})


def test_page_shows_the_report() -> None:
    """Catches a table that is not the measurement."""
    assert markdown_table(REPORT) in (ROOT / "docs" / "figures.md").read_text()
