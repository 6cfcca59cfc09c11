# SPDX-License-Identifier: Apache-2.0
"""The measures of scores, embeddings and classes, by hand on a few answers."""

import copy
import math
from typing import Any

import numpy as np
import pytest

from tests.verify.pooling_arms import arm, compared
from vllm_xpu_fp8_plugin.verify import pooling

# Of three rankings of two documents; deviations from the mean, 0, are 3, 3, 1, ....
SCORES = [[3.0], [-3.0], [1.0], [-1.0], [2.0], [-2.0]]

SPREAD = math.sqrt(28 / 6)


def test_drift_of_scores_is_in_spreads() -> None:
    """Catches a mean, a maximum or a unit that is another."""
    moved = [[3.3], [-3.0], [1.0], [-1.0], [2.0], [-2.6]]
    values = compared(arm("score", SCORES), arm("score", moved))
    assert values["spread"] == pytest.approx(SPREAD)
    assert values["score_drift_max"] == pytest.approx(0.6 / SPREAD)
    assert values["score_drift_mean"] == pytest.approx(0.9 / 6 / SPREAD)
    p99 = np.quantile([0.3, 0, 0, 0, 0, 0.6], 0.99) / SPREAD
    assert values["score_drift_p99"] == pytest.approx(p99)
    assert values["batch_drift_max"] == 0
    assert values["length_drift_max"] == values["lengths_off"] == 0
    assert values["order_kept"] == values["top1_agreement"] == 1
    assert values["non_finite"] == values["reference_non_finite"] == 0
    assert values["all_equal"] == values["saturated"] == 0


def test_probes_count_for_the_greatest_drift_and_the_spread() -> None:
    """Catches probes that are run and not judged."""
    reference = arm("score", SCORES, probes=[[40.0], [-40.0]])
    candidate = arm("score", SCORES, probes=[[40.0], [-60.0]])
    values = compared(reference, candidate)
    spread = np.std([0, 0, 0, 40, -40])
    assert values["spread"] == pytest.approx(spread)
    assert values["score_drift_max"] == pytest.approx(20 / spread)
    assert values["score_drift_mean"] == 0


def test_response_is_that_of_sweep_and_probes_too() -> None:
    """Catches items that are right and a sweep that does not depend on its length."""
    lengths, probes = [[5.0], [-5.0], [0.0]], [[7.0], [-7.0]]
    reference = arm("score", SCORES, lengths=lengths, probes=probes)
    for part, square in (("lengths", 50), ("probes", 98)):
        candidate = arm("score", SCORES, lengths=lengths, probes=probes)
        candidate[part] = [[0.0]] * len(candidate[part])
        values = compared(reference, candidate)
        total = 28 + 50 + 98
        slope = 1 - square / total
        residual = square * slope**2 + (total - square) * (1 - slope) ** 2
        expected = 1 - slope - 2 * math.sqrt(residual / (11 - 2) / total)
        assert values["response_error"] == pytest.approx(max(0, expected))
    candidate = arm("score", SCORES, lengths=[[0.0]] * 3, probes=[[0.0]] * 2)
    candidate["items"] = [[0.0]] * 6
    assert compared(reference, candidate)["response_error"] == 1


def test_batch_drift_is_the_candidates_own() -> None:
    """Catches an item alone that is compared with the reference, or with another."""
    moved = [[x + 1] for [x] in SCORES]
    candidate = arm("score", moved, alone=[[4.0], [2.0 + 0.5]])
    values = compared(arm("score", SCORES), candidate)
    assert values["batch_drift_max"] == pytest.approx(0.5 / SPREAD)


def test_sweep_is_judged_length_by_length() -> None:
    """Catches a length that is not counted, and one that is misnamed."""
    candidate = arm("score", SCORES, lengths=[[0.0], [-4.0], [3.0]])
    values, remarks, _ = pooling.compare(arm("score", SCORES), candidate)
    assert values["length_drift_max"] == pytest.approx(4 / SPREAD)
    assert values["length_drift_mean"] == pytest.approx(7 / 3 / SPREAD)
    assert values["lengths_off"] == pytest.approx(2 / 3)
    assert remarks["length_drift_max"] == "at 5 tokens"
    assert remarks["lengths_off"] == "at lengths 5, 69: length % 64 == 5"


def test_what_is_not_finite_is_counted_in_each_part() -> None:
    """Catches a part without a count, and a value counted twice."""
    nan = [math.nan]
    candidate = arm("score", [nan, *SCORES[1:]], lengths=[nan, [0.0], [0.0]])
    candidate["alone"] = [nan, [1.0]]
    values, remarks, _ = pooling.compare(arm("score", SCORES), candidate)
    assert values["non_finite"] == 3
    assert values["reference_non_finite"] == 0
    assert remarks["non_finite"] == "at 1 tokens"
    values = compared(candidate, arm("score", SCORES))
    assert (values["non_finite"], values["reference_non_finite"]) == (0, 3)
    candidate["items"][4:] = [nan, nan]
    assert compared(candidate, arm("score", SCORES))["reference_non_finite"] == 5
    everything = arm("score", [nan] * 6, lengths=[nan] * 3, alone=[nan] * 2)
    values = compared(arm("score", SCORES), everything)
    for name in ("score_drift_max", "score_drift_mean", "length_drift_mean"):
        assert math.isnan(values[name])
    assert math.isnan(values["batch_drift_max"])
    assert math.isnan(values["response_error"])


def test_answers_are_equal_only_if_all_are() -> None:
    """Catches constant items that hide behind a sweep, and one column of several."""
    same = {"lengths": [[3.0]] * 3, "probes": [[3.0]]}
    candidate = arm("score", [[3.0]] * 6, **same)
    reference = arm("score", SCORES, probes=[[0.0]])
    assert compared(reference, candidate)["all_equal"] == 1
    candidate["probes"] = [[3.1]]
    assert compared(reference, candidate)["all_equal"] == 0
    one_column = [[0.5 + i / 100, 0.3] for i in range(6)]
    reference = arm("classify", [[0.9, 0.1], [0.2, 0.8]] * 3)
    candidate = arm("classify", one_column, lengths=[[0.5, 0.3]] * 3)
    assert compared(reference, candidate)["all_equal"] == 0


def test_saturated_counts_what_the_reference_has_not() -> None:
    """Catches a bound that is not looked for, and a reference that is on it too."""
    reference = arm("score", [[0.2], [0.5], [0.7], [0.1], [0.6], [0.4]])
    for bound in (0.0, 0.5, 1.0):
        candidate = arm("score", [[bound], [0.5], [bound], [0.1], [0.6], [0.4]])
        assert compared(reference, candidate)["saturated"] == pytest.approx(2 / 6)
    candidate = arm("score", [[0.2], [0.51], [0.7], [0.1], [0.6], [0.4]])
    assert compared(reference, candidate)["saturated"] == 0


def test_labels_agree_where_no_clear_lead_is_lost() -> None:
    """Catches a label between two that counts as lost, and a clear one that is not."""
    sure, torn = [0.9, 0.05, 0.05], [0.45, 0.44, 0.11]
    other = [0.05, 0.9, 0.05]
    lengths = [[0.2, 0.5, 0.3]] * 3
    reference = arm("classify", [sure, torn, other, sure], lengths=lengths)
    swapped = [0.44, 0.45, 0.11]
    candidate = arm("classify", [sure, swapped, other, sure], lengths=lengths)
    values, _, pairs = pooling.compare(reference, candidate)
    assert values["label_agreement"] == 1
    assert pairs == {
        "candidate": [0.9, 0.44, 0.9, 0.9],
        "reference": [0.9, 0.45, 0.9, 0.9],
    }
    assert "order_kept" not in values
    candidate = arm("classify", [other, swapped, other, sure], lengths=lengths)
    assert compared(reference, candidate)["label_agreement"] == 0.75
    # A row that is not finite has no label, not the first one.
    nan = [math.nan, 0.5, 0.5]
    candidate = arm("classify", [nan, swapped, other, sure], lengths=lengths)
    assert compared(reference, candidate)["label_agreement"] == 0.75


@pytest.mark.parametrize(("lead", "agreed"), [(0.24, 1.0), (0.26, 0.0)])
def test_a_clear_lead_is_one_in_spreads(lead: float, agreed: float) -> None:
    """Catches a lead that is judged in nats."""
    wide = [[5.0, -5.0]] * 3 + [[-5.0, 5.0]] * 3
    unit = math.sqrt(25 * 6 / 9)

    def answers(rows: list[list[float]]) -> list[list[float]]:
        e = np.exp(np.array(rows))
        return list((e / e.sum(axis=1, keepdims=True)).tolist())

    reference = arm("classify", answers([[lead * unit / 2, -lead * unit / 2]] * 3))
    reference |= {"lengths": [[0.5, 0.5]] * 3, "probes": answers(wide)}
    candidate = copy.deepcopy(reference)
    candidate["items"] = answers([[-0.1, 0.1]] * 3)
    values = compared(reference, candidate)
    assert values["spread"] == pytest.approx(unit)
    assert values["label_agreement"] == agreed


def test_drift_of_classes_is_that_of_the_worst_logit() -> None:
    """Catches a mean over classes, in which one of fifty is lost."""
    logs = np.array([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2], [2, -1, -1]])
    moved = logs.copy()
    moved[1] += [0.0, -0.6, 0.6]

    def answers(x: Any) -> list[list[float]]:
        e = np.exp(x)
        return list((e / e.sum(axis=1, keepdims=True)).tolist())

    lengths = answers(logs[:3])
    reference = arm("classify", answers(logs), lengths=lengths)
    candidate = arm("classify", answers(moved), lengths=lengths)
    values = compared(reference, candidate)
    deviations = logs - logs.mean(axis=0)
    unit = max(
        np.sqrt((deviations**2).mean()),
        np.sqrt(((logs[:3] - logs[:3].mean(axis=0)) ** 2).mean()),
    )
    assert values["spread"] == pytest.approx(unit)
    assert values["score_drift_max"] == pytest.approx(0.6 / unit)


@pytest.mark.parametrize("part", ["items", "lengths", "alone"])
@pytest.mark.parametrize("value", [1.0, math.nan])
def test_answers_that_are_missing_are_no_answers(part: str, value: float) -> None:
    """Catches an arm with fewer answers, of which those that are there agree."""
    candidate = arm("score", SCORES)
    candidate[part] = [[value], *candidate[part][1:-1]]
    with pytest.raises(ValueError, match="answers to"):
        compared(arm("score", SCORES), candidate)


def test_unsure_probabilities_have_a_spread_of_half_a_nat() -> None:
    """Catches a model that decides nothing, whose rounding fails for that."""
    odds = [0.1, -0.1, 0.05, 0.0, -0.05, 0.1]

    def answers(x: list[float]) -> list[list[float]]:
        return [[1 / (1 + math.exp(-y))] for y in x]

    reference = arm("score", answers(odds), lengths=[[0.501]] * 3)
    candidate = arm("score", answers([0.2, *odds[1:]]), lengths=[[0.501]] * 3)
    values = compared(reference, candidate)
    assert values["spread"] == 0.5
    assert values["score_drift_max"] == pytest.approx(0.2)
