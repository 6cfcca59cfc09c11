# SPDX-License-Identifier: Apache-2.0
"""The limits: complete, documented, and changed by words that are checked."""

import pytest

from tests.verify import results
from vllm_xpu_fp8_plugin.verify import thresholds
from vllm_xpu_fp8_plugin.verify.judge import judge


@pytest.mark.parametrize("task", ["score", "embed", "classify", "generate"])
def test_every_limit_of_a_task_is_measured(task: str) -> None:
    """Catches a threshold whose measure has another name and is never checked."""
    arm = results.generation() if task == "generate" else results.pooling(task)
    checked = {c["name"] for c in judge(arm, arm)["checks"]}
    assert checked == {t.name for t in thresholds.for_task(task)}


def test_every_limit_has_one_entry_a_task_and_a_reason() -> None:
    """Catches a second entry that is never used."""
    seen = [(t.name, task) for t in thresholds.THRESHOLDS for task in t.tasks]
    assert len(seen) == len(set(seen))
    assert all(len(t.reason) > 30 and t.meaning for t in thresholds.THRESHOLDS)


def test_limits_are_read() -> None:
    """Catches a value that is cut or mixed up."""
    given = ["score_drift_max=0.5", "non_finite=2", "score_drift_max=1e-3"]
    limits = thresholds.parse_limits(given)
    assert limits == {"score_drift_max": 0.001, "non_finite": 2.0}


@pytest.mark.parametrize("word", ["drift=1", "non_finite", "non_finite=x", "=", ""])
def test_bad_limit_is_refused(word: str) -> None:
    """Catches a misspelt measure whose limit is silently not changed."""
    with pytest.raises(ValueError, match="--limit"):
        thresholds.parse_limits([word])
    with pytest.raises(ValueError, match="NaN"):
        thresholds.parse_limits(["non_finite=nan"])
