# SPDX-License-Identifier: Apache-2.0
"""Which errors of scores, vectors and classes drift, and which are an alarm."""

import copy
from typing import Any

import numpy as np
import pytest

from tests.verify.wrong_answers import make, rounded
from vllm_xpu_fp8_plugin.verify.verdict import judge

Result = dict[str, Any]


@pytest.mark.parametrize("task", ["score", "embed", "classify"])
def test_small_errors_drift_and_smaller_ones_pass(task: str) -> None:
    """Catches limits that nothing fails, and limits that sound FP8 fails."""
    reference = make(task)
    rng = np.random.default_rng(2)
    verdicts = []
    for size in (0.005, 0.15):
        candidate = copy.deepcopy(reference)
        items = np.array(candidate["items"])
        noise = size * rng.normal(size=items.shape)
        # Rounding moves logits, of which probabilities are powers.
        moved = items + noise if task == "embed" else items * np.exp(2 * noise)
        if task == "score":
            moved = 1 / (1 + (1 / items - 1) * np.exp(2 * noise))
        candidate["items"] = moved.tolist()
        candidate["alone"] = [candidate["items"][i] for i in (0, 1)]
        verdicts.append(judge(reference, candidate)["verdict"])
    assert verdicts == ["pass", "drift"]


def raw_logits(arm: Result, size: float) -> Result:
    """Return a score arm whose model puts out logits as they are."""
    arm = copy.deepcopy(arm)
    for name in ("items", "lengths", "probes", "alone"):
        p = np.array(arm[name])
        arm[name] = (size * np.log(p / (1 - p))).tolist()
    return arm


@pytest.mark.parametrize("size", [0.01, 1, 11])
def test_scores_are_judged_alike_with_a_sigmoid_and_without(size: float) -> None:
    """Catches limits made for 0 to 1, by which logits of ±11 are wrong answers."""
    reference = make("score")
    rng = np.random.default_rng(3)
    for noise, said in ((0.03, "pass"), (2.0, "alarm")):
        candidate = copy.deepcopy(reference)
        for name in ("items", "lengths", "probes"):
            p = np.array(candidate[name])
            logits = np.log(p / (1 - p)) + noise * rng.normal(size=p.shape)
            candidate[name] = (1 / (1 + np.exp(-logits))).tolist()
        candidate["alone"] = [candidate["items"][i] for i in (0, 1)]
        reports = [
            judge(reference, candidate),
            judge(raw_logits(reference, size), raw_logits(candidate, size)),
        ]
        assert [r["verdict"] for r in reports] == [said, said]
        drifts = [r["measures"]["score_drift_mean"] for r in reports]
        assert drifts[0] == pytest.approx(drifts[1], rel=1e-3)
        assert reports[0]["unit"] == "spreads of the reference (log-odds)"
        assert reports[1]["unit"] == "spreads of the reference (as given)"


def tail(noise: float, lead: float = 11.0) -> tuple[Result, Result]:
    """Return arms with two relevant documents of eight, the others at -11."""
    reference = make("score")
    rng = np.random.default_rng(5)
    count = len(reference["items"])
    scores = rng.normal(-11, 0.15, size=count)
    for start in range(0, count, 8):
        scores[start : start + 2] = lead, lead - 4
    reference["items"] = scores[:, None].tolist()
    for name in ("lengths", "probes"):
        reference[name] = rng.normal(0, 8, size=np.shape(reference[name])).tolist()
    candidate = copy.deepcopy(reference)
    moved = scores + noise * rng.normal(size=count)
    candidate["items"] = moved[:, None].tolist()
    for arm in (reference, candidate):
        arm["alone"] = [arm["items"][i] for i in (0, 1)]
    return reference, candidate


def test_swaps_among_the_irrelevant_cost_nothing() -> None:
    """Catches rank statistics that fail a reranker for the order of its last six."""
    reference, candidate = tail(0.3)
    report = judge(reference, candidate)
    assert report["verdict"] == "pass", report["checks"]
    assert report["measures"]["spearman_mean"] < 0.8
    assert report["measures"]["order_kept"] == 1
    assert report["measures"]["top1_agreement"] == 1
    assert report["measures"]["ndcg10_agreement"] > 0.999


def test_a_clear_lead_that_is_lost_costs_what_it_was_worth() -> None:
    """Catches an order judged by all pairs alike, in which one is lost."""
    reference, candidate = tail(0.01)
    items = candidate["items"]
    items[0], items[7] = items[7], items[0]
    report = judge(reference, candidate)
    assert report["verdict"] != "pass"
    failed = {c["name"] for c in report["checks"] if c["verdict"] != "pass"}
    assert {"order_kept", "flipped_lead_max", "score_drift_max"} <= failed
    assert report["measures"]["flipped_lead_max"] > 1


def one_sided(candidate_value: float | None = None) -> tuple[Result, Result]:
    """Return classes' arms where every text has one label, at 0.997 or more."""
    reference = make("classify")
    rng = np.random.default_rng(6)
    shape = np.shape(reference["items"])
    logits = rng.normal(size=shape)
    logits[:, 3] += 9
    e = np.exp(logits)
    reference["items"] = (e / e.sum(axis=1, keepdims=True)).tolist()
    candidate = rounded(reference)
    if candidate_value is not None:
        row = np.full(shape[1], (1 - candidate_value) / (shape[1] - 1))
        row[3] = candidate_value
        for name in ("items", "lengths", "probes"):
            noise = 1 + 1e-5 * rng.normal(size=np.shape(candidate[name]))
            candidate[name] = (row * noise).tolist()
    for arm in (reference, candidate):
        arm["alone"] = [arm["items"][i] for i in (0, 1)]
    return reference, candidate


def test_an_engine_that_ignores_its_input_is_seen_on_one_sided_data() -> None:
    """Catches 0.95 for every text, where 0.95 is what most texts have."""
    assert judge(*one_sided())["verdict"] == "pass"
    report = judge(*one_sided(0.95))
    assert "response_error" in report["alarms"]
    assert report["measures"]["label_agreement"] == 1


@pytest.mark.parametrize("first", [191, 257, 512])
def test_a_label_that_is_flipped_at_long_texts_is_seen(first: int) -> None:
    """Catches a sweep that is judged by its mean."""
    reference = make("classify")
    candidate = rounded(reference)
    for ids, row in zip(
        reference["plan"]["lengths"], candidate["lengths"], strict=True
    ):
        if len(ids) >= first:
            best, worst = np.argmax(row), np.argmin(row)
            row[best], row[worst] = row[worst], row[best]
    report = judge(reference, candidate)
    assert report["verdict"] == "drift"
    checks = {c["name"]: c for c in report["checks"]}
    assert checks["length_drift_max"]["verdict"] == "drift"
    if first < 512:
        assert checks["lengths_off"]["remark"] == f"at all lengths from {first} on" or (
            first == 257 and "from 261 on" in checks["lengths_off"]["remark"]
        )
