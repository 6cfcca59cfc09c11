# SPDX-License-Identifier: Apache-2.0
"""A fast part of `detection`: the faults that the answers of real arms are given."""

import pytest

from tests.real_models import ROOT
from tests.verify import changes, engine_faults, text_changes, vector_changes
from tests.verify.outcomes import TASKS, spoilt

# What passes, as docs/verify.md says: it is of the size of FP8's rounding, or spoils
# an answer that is near the wrong one anyway.
PASSES = {
    "score": {
        "noise, everywhere, 0.1 spreads",
        "scale, head, x1.02",
        "off, length 128, 0.5 spreads",
        "off, the longest, 0.5 spreads",
        "turned, the longest, all of them",
        "zeros, batch position, first, all of it",
        "garbage, batch position, first, all of it",
        "batch, one item, 0.1 spreads",
    },
    "embed": {
        "noise, everywhere, 0.05 of the norm",
        "scale, all of a vector, x1.02",
        *(f"scale, one channel, x{x}" for x in (0, 1.02, 1.1, 2)),
        *(f"scale, one head, x{x}" for x in (1.02, 1.1)),
        *(f"off, {where}, 0.1 of the norm" for where in changes.LENGTHS),
    },
    "classify": {
        "scale, head, x1.02",
        *(f"off, {where}, 0.5 spreads" for where in changes.LENGTHS),
        "off, length 128, 1 spreads",
        "off, the longest, 1 spreads",
        "batch, one item, 0.1 spreads",
        *(f"scale, one channel, x{x}" for x in (1.02, 1.1)),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("task", PASSES)
def test_faults_of_answers_are_seen(task: str) -> None:
    """Catches a measure that no longer sees what it is for."""
    outcomes = spoilt(task)
    assert len(outcomes) >= 60
    missed = {o.fault for o in outcomes if o.verdict == "pass"}
    assert missed <= PASSES[task]


def test_there_are_enough_of_them_and_a_third_go_through_an_engine() -> None:
    """Catches faults that fell out of the lists, or out of the page."""
    answers = {
        "score": changes.SCORE,
        "embed": vector_changes.EMBED,
        "classify": changes.CLASSIFY,
        "generate": text_changes.GENERATE,
    }
    engines = {task: len(engine_faults.EVERY_MODEL) for task in TASKS}
    engines["generate"] += len(engine_faults.DECODERS)
    for task in TASKS:
        assert len(answers[task]) >= 60
        assert engines[task] / (engines[task] + len(answers[task])) > 0.32
    assert sum(engines.values()) > sum(map(len, answers.values())) / 2
    page = (ROOT / "docs" / "verify.md").read_text()
    for name in [*engine_faults.EVERY_MODEL, *engine_faults.DECODERS]:
        kind, place = name.split(", ")[:2]
        assert f"| {kind} | {place} | engine |" in page
