# SPDX-License-Identifier: Apache-2.0
"""A fast part of `detection`: the faults that the answers of real arms are given."""

import re

import pytest

from tests.real_models import ROOT
from tests.verify import changes, engine_faults, text_changes
from tests.verify.detection import TASKS, spoilt

# What no limit that sound FP8 passes can tell: each is of the size of its rounding.
HIDDEN = re.compile(r"x1\.02$|x1\.05$|, 0\.0?[125] |length 128, |the longest, ")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("task", ["score", "embed", "classify"])
def test_faults_of_answers_are_seen(task: str) -> None:
    """Catches a measure that no longer sees what it is for."""
    missed = [o.fault for o in spoilt(task) if o.verdict == "pass"]
    assert [f for f in missed if not HIDDEN.search(f)] == []


def test_there_are_enough_of_them_and_a_third_go_through_an_engine() -> None:
    """Catches faults that fell out of the lists, and a name for two of them."""
    engines = {task: len(engine_faults.EVERY_MODEL) for task in TASKS}
    engines["generate"] += len(engine_faults.DECODERS)
    answers = {
        "score": changes.SCORE,
        "embed": changes.EMBED,
        "classify": changes.CLASSIFY,
        "generate": text_changes.GENERATE,
    }
    for task in TASKS:
        assert len(answers[task]) >= 60
        assert engines[task] >= len(answers[task]) // 2
    page = (ROOT / "docs" / "verify.md").read_text()
    for name in [*engine_faults.EVERY_MODEL, *engine_faults.DECODERS]:
        kind, place = name.split(", ")[:2]
        assert f"| {kind} | {place} | engine |" in page
