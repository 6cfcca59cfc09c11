# SPDX-License-Identifier: Apache-2.0
"""docs/verify.md says what the code does."""

import re
from pathlib import Path

import pytest

from tests.verify import results
from tests.verify.command import verify
from tests.verify.test_command import KEYS
from vllm_xpu_fp8_plugin.verify import limits
from vllm_xpu_fp8_plugin.verify.verdict import judge

PAGE = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> set[str]:
    """Return what the first column of a table has in backticks."""
    cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]*)`", cell)}


def test_table_of_limits_is_the_generated_one() -> None:
    """Catches a limit that was changed in the code alone."""
    match = re.search(r"<!-- limits -->\n(.*?)\n<!-- /limits -->", PAGE, re.DOTALL)
    assert match
    assert match[1] == limits.markdown_table()


@pytest.mark.parametrize("task", ["score", "embed", "classify", "generate"])
def test_every_measure_is_explained(task: str) -> None:
    """Catches a number in the report that no page explains."""
    arm = results.generation() if task == "generate" else results.pooling(task)
    explained = first_cells(section("Measures without a limit"))
    checked = {t.name for t in limits.for_task(task)}
    assert set(judge(arm, arm)["measures"]) <= explained | checked


def test_every_field_of_the_report_is_explained() -> None:
    """Catches a field without a meaning, and one that is gone."""
    fields = first_cells(section("report.json"))
    assert fields == KEYS


def test_every_flag_is_explained() -> None:
    """Catches a flag that the page lacks or has invented."""
    flag = re.compile(r"--[a-z-]+")
    known = set(flag.findall(verify("--help").stdout)) - {"--help", "--max-model-len"}
    cells = first_cells(PAGE.split("## What runs")[0])
    assert {name for cell in cells for name in flag.findall(cell)} == known
