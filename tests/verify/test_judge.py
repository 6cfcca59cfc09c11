# SPDX-License-Identifier: Apache-2.0
"""The verdict on made-up answers: each fault raises the alarm that fits."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.verify import results
from vllm_xpu_fp8_plugin.verify.judge import judge

Result = dict[str, Any]


def make(task: str) -> Result:
    return results.generation() if task == "generate" else results.pooling(task)


@pytest.mark.parametrize("task", ["score", "embed", "classify", "generate"])
def test_equal_arms_pass(task: str) -> None:
    """Catches a false alarm on the very same answers, and NaN in the report."""
    reference = make(task)
    report = judge(reference, copy.deepcopy(reference))
    assert report["verdict"] == "pass", report["checks"]
    assert report["speed"]["candidate"]["throughput"] == 10.0
    assert len(report["checks"]) >= 6
    json.dumps(report, allow_nan=False)


def nan_at_a_remainder(arm: Result) -> None:
    for ids, row in zip(arm["plan"]["lengths"], arm["lengths"], strict=True):
        if len(ids) % 64 == 5:
            if isinstance(row, dict):
                row["logprobs"][0] = math.nan
            else:
                row[0] = math.nan


def one_score(arm: Result) -> None:
    arm["items"] = [[0.3] * len(x) for x in arm["items"]]


def half(arm: Result) -> None:
    arm["items"] = [[0.5] if i % 3 else x for i, x in enumerate(arm["items"])]


def random_order(arm: Result) -> None:
    arm["items"] = np.random.default_rng(1).permutation(arm["items"]).tolist()


def others_change_a_row(arm: Result) -> None:
    arm["alone"][0] = [-x + 0.1 for x in arm["alone"][0]]


def change_text(arm: Result, change: Callable[[list[int]], list[int]]) -> None:
    for row, own in zip(arm["items"], arm["own"], strict=True):
        row["tokens"] = change(row["tokens"])
        for values in (row["logprobs"], row["top"], own):
            del values[len(row["tokens"]) :]


def twice_each(arm: Result) -> None:
    change_text(arm, lambda t: [x for x in t[: len(t) // 2] for _ in "12"])


def one_token(arm: Result) -> None:
    change_text(arm, lambda t: [t[0], *[0] * (len(t) - 1)])


def nothing(arm: Result) -> None:
    change_text(arm, lambda t: [])


def another_cache(arm: Result) -> None:
    for row in arm["items"]:
        row["logprobs"] = [x - 0.4 for x in row["logprobs"]]


def alone_otherwise(arm: Result) -> None:
    arm["alone"][0]["tokens"][3] = 200


@pytest.mark.parametrize(
    ("task", "fault", "alarm"),
    [
        ("score", nan_at_a_remainder, "non_finite"),
        ("embed", nan_at_a_remainder, "non_finite"),
        ("generate", nan_at_a_remainder, "non_finite"),
        ("score", one_score, "all_equal"),
        ("classify", one_score, "all_equal"),
        ("score", half, "saturated"),
        ("score", random_order, "order_kept"),
        ("embed", random_order, "order_kept"),
        ("score", others_change_a_row, "batch_drift_max"),
        ("generate", twice_each, "adjacent_repeats"),
        ("generate", one_token, "longest_run"),
        ("generate", nothing, "empty_output"),
        ("generate", another_cache, "decode_gap"),
        ("generate", alone_otherwise, "batch_margin_max"),
    ],
)
def test_fault_raises_its_alarm(
    task: str, fault: Callable[[Result], None], alarm: str
) -> None:
    """Catches an alarm that cannot be raised."""
    reference = make(task)
    candidate = copy.deepcopy(reference)
    fault(candidate)
    report = judge(reference, candidate)
    assert report["verdict"] == "alarm"
    assert alarm in report["alarms"]
    assert report["speed"] is None
    json.dumps(report, allow_nan=False)


def test_nan_names_what_its_lengths_have_in_common() -> None:
    """Catches a report that says that there is NaN and not where."""
    reference = make("score")
    candidate = copy.deepcopy(reference)
    nan_at_a_remainder(candidate)
    check = judge(reference, candidate)["checks"][0]
    assert check["value"] == 3
    assert check["remark"] == "at lengths 5, 69, 133: length % 64 == 5"


def test_nan_in_the_reference_is_not_blamed_on_fp8() -> None:
    """Catches a pass against a reference that is broken itself."""
    reference = make("embed")
    reference["items"][0][0] = math.nan
    report = judge(reference, make("embed"))
    assert report["alarms"] == ["reference_non_finite"]


@pytest.mark.parametrize("task", ["score", "embed", "classify"])
def test_small_errors_drift_and_smaller_ones_pass(task: str) -> None:
    """Catches limits that nothing fails, and limits that sound FP8 fails."""
    reference = make(task)
    rng = np.random.default_rng(2)
    verdicts = []
    for size in (0.002, 0.2):
        candidate = copy.deepcopy(reference)
        noise = rng.normal(scale=size, size=np.shape(candidate["items"]))
        candidate["items"] = (np.array(candidate["items"]) + noise).tolist()
        candidate["alone"] = candidate["items"][:2]
        verdicts.append(judge(reference, candidate)["verdict"])
    assert verdicts == ["pass", "drift"]


def test_logprobs_that_drift_fail_and_their_perplexity() -> None:
    """Catches generation judged by its tokens alone."""
    reference = make("generate")
    candidate = copy.deepcopy(reference)
    candidate["forced"] = [[x - 0.5 for x in row] for row in candidate["forced"]]
    report = judge(reference, candidate)
    failed = {c["name"] for c in report["checks"] if not c["passed"]}
    assert failed == {"logprob_drift_mean", "perplexity_ratio"}
    assert report["verdict"] == "drift"
    ratio = report["measures"]["perplexity_ratio"]
    assert ratio == pytest.approx(math.exp(0.5), rel=1e-6)


def test_a_tie_may_fall_the_other_way_and_a_lead_may_not() -> None:
    """Catches token agreement as the criterion, which sound FP8 fails."""
    reference = make("generate")
    margins = {}
    for step, token in (("tie", None), ("lead", 200)):
        candidate = copy.deepcopy(reference)
        for row in candidate["items"]:
            second = row["top"][4][1][0]
            row["tokens"][4] = second if token is None else token
        report = judge(reference, candidate)
        margins[step] = report["measures"]["divergence_margin_median"]
        assert report["measures"]["first_divergence_median"] == 4
        assert report["verdict"] == {"tie": "pass", "lead": "drift"}[step]
    assert margins == {"tie": pytest.approx(0.3), "lead": pytest.approx(5.0)}


def test_limits_can_be_changed() -> None:
    """Catches a limit that is read and not used."""
    reference = make("embed")
    candidate = copy.deepcopy(reference)
    report = judge(reference, candidate, {"top1_agreement": 1.5})
    assert report["verdict"] == "drift"
    failed = [c for c in report["checks"] if not c["passed"]]
    assert [c["name"] for c in failed] == ["top1_agreement"]
