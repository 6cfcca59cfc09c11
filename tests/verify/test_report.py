# SPDX-License-Identifier: Apache-2.0
"""What the report says beside the verdict."""

import pytest

from tests.verify import results
from tests.verify.wrong_answers import make, rounded
from vllm_xpu_fp8_plugin.verify.verdict import described, judge


def test_checks_say_what_is_allowed() -> None:
    """Catches a bound that is told the wrong way round, and limits mixed up."""
    reference = make("score")
    reference["plan"]["texts_cut"] = 3
    report = judge(reference, rounded(reference))
    checks = {c["name"]: c for c in report["checks"]}
    order, drift = checks["order_kept"], checks["score_drift_mean"]
    assert (order["bound"], drift["bound"]) == ("at least", "at most")
    assert order["alarm"] < order["drift"] <= order["value"]
    assert drift["alarm"] > drift["drift"] >= drift["value"]
    assert report["texts_cut"] == 3
    assert judge(make("score"), make("score"))["texts_cut"] == 0
    assert report["items"] == 96
    assert set(report["arms"]["candidate"]) == set(results.ARM)


def test_a_measure_that_the_data_lacks_leaves_the_others() -> None:
    """Catches checks that end with the first one that cannot be made."""
    reference = make("embed")
    for ranking in reference["plan"]["rankings"]:
        del ranking["relevance"]
    checked = {c["name"] for c in judge(reference, rounded(reference))["checks"]}
    assert "ndcg10_labels_loss" not in checked
    assert {"cosine_drift_mean", "norm_drift_max", "batch_drift_max"} <= checked


@pytest.mark.parametrize(
    ("task", "unit"),
    [
        ("score", "spreads of the reference (log-odds)"),
        ("classify", "spreads of the reference (log-probabilities)"),
        ("embed", "spreads of the reference's cosines, or cosine distance"),
        ("generate", "nats"),
    ],
)
def test_report_says_what_drift_is_measured_in(task: str, unit: str) -> None:
    """Catches a number without a unit, or with another's."""
    assert judge(make(task), make(task))["unit"] == unit


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("candidate", [False, True])
def test_speed_of_software_is_marked(reference: bool, candidate: bool) -> None:
    """Catches the speed of an emulated arm, shown as an Intel GPU's."""
    theirs, ours = make("score"), rounded(make("score"))
    theirs["emulated"], ours["emulated"] = reference, candidate
    assert judge(theirs, ours)["speed"]["emulated"] is (reference or candidate)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(99_999, "99999"), (100_000, "0.1 M"), (0, "0"), (7_612_345_678, "7612.3 M")],
)
def test_weights_are_counted_in_millions(count: int, shown: str) -> None:
    """Catches a few weights that are rounded to none."""
    counts = {**results.ARM["fp8"], "weights_fp8": count, "weights": count}
    assert described(counts).endswith(f" {shown} of {shown} weights")
    counts |= {"caches": 30, "caches_fp8": 28}
    assert described(counts).endswith(" weights, 28 of 30 KV caches")
