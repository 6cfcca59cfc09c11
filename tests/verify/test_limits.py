# SPDX-License-Identifier: Apache-2.0
"""The limits: complete, documented, and changed by words that are checked."""

import math

import pytest

from tests.verify import results
from vllm_xpu_fp8_plugin.verify import limits
from vllm_xpu_fp8_plugin.verify.threshold import least, most
from vllm_xpu_fp8_plugin.verify.verdict import judge


@pytest.mark.parametrize("task", ["score", "embed", "classify", "generate"])
def test_every_limit_of_a_task_is_measured(task: str) -> None:
    """Catches a threshold whose measure has another name and is never checked."""
    arm = results.generation() if task == "generate" else results.pooling(task)
    checked = {c["name"] for c in judge(arm, arm)["checks"]}
    assert checked == {t.name for t in limits.for_task(task)}


def test_every_limit_has_one_entry_a_task_and_a_reason() -> None:
    """Catches a second entry that is never used."""
    seen = [(t.name, task) for t in limits.THRESHOLDS for task in t.tasks]
    assert len(seen) == len(set(seen))
    assert all(len(t.reason) > 10 and t.meaning for t in limits.THRESHOLDS)


def test_a_measure_has_one_name_and_at_most_two_limits() -> None:
    """Catches an alarm that is stricter than the limit for drift."""
    for t in limits.THRESHOLDS:
        assert (t.drift, t.alarm) != (None, None)
        if t.drift is not None and t.alarm is not None:
            assert (t.alarm < t.drift) == t.at_least


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.1, "pass"), (0.2, "pass"), (0.3, "drift"), (0.5, "drift"), (0.51, "alarm")],
)
def test_a_value_is_judged_by_both_limits(value: float, said: str) -> None:
    """Catches an alarm that is reported as drift, and a limit that is off by a bit."""
    assert most("x", (), "", "", drift=0.2, alarm=0.5).judge(value) == said
    assert least("x", (), "", "", drift=-0.2, alarm=-0.5).judge(-value) == said


def test_nan_is_within_no_limit() -> None:
    """Catches answers that could not be measured, taken for right ones."""
    assert most("x", (), "", "", drift=1.0).judge(math.nan) == "drift"
    assert least("x", (), "", "", drift=1.0, alarm=0.0).judge(math.nan) == "alarm"


@pytest.mark.parametrize(
    ("limits", "drift", "alarm"),
    [
        ((0.3,), 0.3, 0.5),
        # Drift that is allowed raises no alarm.
        ((0.7,), 0.7, 0.7),
        ((0.3, 0.4), 0.3, 0.4),
        ((0.5,), 0.5, 0.5),
    ],
)
def test_limits_move(limits: tuple[float, ...], drift: float, alarm: float) -> None:
    """Catches --limit that leaves an alarm where the drift is allowed."""
    moved = most("x", (), "", "", drift=0.2, alarm=0.5).moved(limits)
    assert (moved.drift, moved.alarm) == (drift, alarm)
    mirrored = tuple(-x for x in limits)
    moved = least("x", (), "", "", drift=-0.2, alarm=-0.5).moved(mirrored)
    assert (moved.drift, moved.alarm) == (-drift, -alarm)


def test_a_single_limit_moves() -> None:
    """Catches an alarm that stays where it was, or turns into drift."""
    moved = most("x", (), "", "", alarm=0.5).moved((0.7,))
    assert (moved.drift, moved.alarm) == (None, 0.7)
    moved = most("x", (), "", "", drift=0.5).moved((0.7,))
    assert (moved.drift, moved.alarm) == (0.7, None)


def test_limits_are_read() -> None:
    """Catches a value that is cut or mixed up."""
    given = ["score_drift_max=0.5", "non_finite=2", "score_drift_max=1e-3,2"]
    assert limits.parse_limits(given) == {
        "score_drift_max": (0.001, 2.0),
        "non_finite": (2.0,),
    }


@pytest.mark.parametrize(
    "word", ["drift=1", "non_finite", "non_finite=x", "=", "", "non_finite=1,2,3"]
)
def test_bad_limit_is_refused(word: str) -> None:
    """Catches a misspelt measure whose limit is silently not changed."""
    with pytest.raises(ValueError, match="--limit"):
        limits.parse_limits([word])
    with pytest.raises(ValueError, match="NaN"):
        limits.parse_limits(["non_finite=nan"])
