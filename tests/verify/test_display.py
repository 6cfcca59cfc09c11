# SPDX-License-Identifier: Apache-2.0
"""The report as it is printed; what it rests on is in test_verdict and test_report."""

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from tests.verify.wrong_answers import make, nan_at_a_remainder, rounded
from vllm_xpu_fp8_plugin.verify import display
from vllm_xpu_fp8_plugin.verify.verdict import judge

Result = dict[str, Any]


def shown(reference: Result, candidate: Result, **limits: tuple[float, ...]) -> str:
    made = {**judge(reference, candidate, limits), "model": "some/model"}
    file = io.StringIO()
    display.show(made, Console(file=file, width=80, highlight=False))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    return text


def test_a_candidate_that_is_not_fp8_is_named_as_such() -> None:
    """Catches right answers that are called wrong, and FP8 that is not counted."""
    reference = make("score")
    candidate = copy.deepcopy(reference)
    text = shown(reference, candidate)
    assert "FP8: 24 of 24 linear layers, 10.0 M of 22.0 M weights" in text
    assert "ALARM: nothing was verified, since FP8 changed nothing." in text
    assert "wrong in a way" not in text
    nan_at_a_remainder(candidate)
    assert "wrong in a way" in shown(reference, candidate)


def test_limits_that_are_missed_are_those_that_are_shown() -> None:
    """Catches the limit for drift beside an alarm, or the other way round."""
    reference = make("score")
    candidate = rounded(reference)
    both = {"order_kept": (1.2, 0.5)}
    assert "allowed is at least 1.2000." in shown(reference, candidate, **both)
    both = {"order_kept": (1.3, 1.2)}
    text = shown(reference, candidate, **both)
    assert "ALARM order_kept" in text
    assert "allowed is at least 1.2000." in text
    text = shown(reference, candidate, score_drift_max=(float("inf"),))
    assert "any      ok" in text


@pytest.mark.parametrize(
    ("task", "unit"), [("score", "spreads of the reference"), ("generate", "nats")]
)
def test_unit_is_shown(task: str, unit: str) -> None:
    """Catches drift without what it is measured in."""
    text = shown(make(task), rounded(make(task)))
    assert f"Drift in:   {unit}" in text
    assert "PASS: " in text
