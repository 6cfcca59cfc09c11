# SPDX-License-Identifier: Apache-2.0
"""The verdict on made-up answers: each fault raises the alarm that fits."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.verify.wrong_answers import (
    alone_otherwise,
    another_cache,
    empty_sweep,
    half,
    ignored_input,
    make,
    nan_at_a_remainder,
    nothing,
    one_gap,
    one_score,
    one_token,
    one_vector_shorter,
    others_change_a_row,
    random_order,
    rounded,
    twice_as_long,
    twice_each,
)
from vllm_xpu_fp8_plugin.verify.verdict import described, judge

Result = dict[str, Any]


@pytest.mark.parametrize("task", ["score", "embed", "classify", "generate"])
def test_answers_that_are_a_little_off_pass(task: str) -> None:
    """Catches a false alarm on nearly the same answers, and NaN in the report."""
    reference = make(task)
    report = judge(reference, rounded(reference))
    assert report["verdict"] == "pass", report["checks"]
    assert report["alarms"] == []
    assert report["speed"]["candidate"]["throughput"] == 10.0
    assert report["speed"]["emulated"] is True
    assert len(report["checks"]) >= 6
    assert report["schema"] == 2
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("task", ["score", "embed", "classify", "generate"])
def test_arms_that_are_equal_bit_by_bit_are_named(task: str) -> None:
    """Catches a quantisation that reached no layer, whose answers of course agree."""
    reference = make(task)
    candidate = copy.deepcopy(reference)
    candidate["fp8"] = {**candidate["fp8"], "layers_fp8": 0, "weights_fp8": 0}
    report = judge(reference, candidate)
    assert report["alarms"] == ["identical", "fp8_layers"]
    check = next(c for c in report["checks"] if c["name"] == "identical")
    assert check["remark"] == (
        "nothing has changed; FP8: 0 of 24 linear layers, 0 of 22.0 M weights"
    )
    assert report["speed"] is None
    # Equal where layers are FP8: these were not used.
    assert judge(reference, copy.deepcopy(reference))["alarms"] == ["identical"]


@pytest.mark.parametrize("name", ["items", "lengths", "probes", "alone"])
def test_one_bit_is_enough_to_differ(name: str) -> None:
    """Catches arms called identical by a part of what they answered."""
    reference = make("classify")
    candidate = copy.deepcopy(reference)
    candidate[name][0][0] = np.nextafter(candidate[name][0][0], 1)
    assert judge(reference, candidate)["alarms"] == []


def test_no_fp8_layer_is_an_alarm_where_answers_differ() -> None:
    """Catches a device whose sums differ from run to run, taken for FP8."""
    reference = make("score")
    candidate = rounded(reference)
    candidate["fp8"] = {**candidate["fp8"], "layers_fp8": 0, "caches_fp8": 0}
    assert judge(reference, candidate)["alarms"] == ["fp8_layers"]
    candidate["fp8"]["caches_fp8"] = 1
    assert judge(reference, candidate)["verdict"] == "pass"
    # The arm of another program does not count them.
    del candidate["fp8"]
    assert judge(reference, candidate)["verdict"] == "pass"


def test_weights_in_another_format_are_not_asked_for_fp8() -> None:
    """Catches sound int4 called unverified, and an FP8 cache that it does not have."""
    reference = make("generate")
    candidate = rounded(reference)
    counts = {"layers_fp8": 0, "caches": 3, "caches_fp8": 0, "layers_other": 20}
    candidate["fp8"] = {**candidate["fp8"], **counts}
    # The values that the codes stand for may be the reference's.
    for other in (reference, candidate):
        report = judge(other, candidate)
        assert report["verdict"] == "pass"
        assert not {"identical", "fp8_layers"} & report["measures"].keys()
    assert described(candidate["fp8"]) == (
        "FP8: 0 of 24 linear layers, 20 quantised to another format, 0 of 3 KV caches"
    )
    candidate["kv_cache_dtype"] = "fp8"
    assert judge(reference, candidate)["alarms"] == ["fp8_layers"]
    candidate["fp8"]["caches_fp8"] = 3
    report = judge(reference, candidate)
    assert report["measures"]["fp8_layers"] == 3


@pytest.mark.parametrize(
    ("task", "fault", "alarm"),
    [
        ("score", nan_at_a_remainder, "non_finite"),
        ("embed", nan_at_a_remainder, "non_finite"),
        ("generate", nan_at_a_remainder, "non_finite"),
        ("score", one_score, "all_equal"),
        ("classify", one_score, "all_equal"),
        ("score", half, "saturated"),
        ("score", ignored_input, "response_error"),
        ("classify", ignored_input, "response_error"),
        ("score", random_order, "order_kept"),
        ("embed", random_order, "order_kept"),
        ("embed", twice_as_long, "norm_drift_max"),
        ("embed", one_vector_shorter, "norm_drift_max"),
        ("score", others_change_a_row, "batch_drift_max"),
        ("generate", twice_each, "adjacent_repeats"),
        ("generate", one_token, "longest_run"),
        ("generate", nothing, "empty_output"),
        ("generate", empty_sweep, "empty_output"),
        ("generate", one_gap, "decode_gap_max"),
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
    assert check["value"] == 7
    assert check["remark"] == (
        "at lengths 5, 69, 133, 197, 261, 325, ...: length % 64 == 5"
    )


@pytest.mark.parametrize("name", ["items", "lengths", "probes"])
def test_nan_in_the_reference_is_not_blamed_on_fp8(name: str) -> None:
    """Catches a pass against a reference that is broken itself."""
    reference = make("score")
    reference[name][0][0] = math.nan
    assert judge(reference, make("score"))["alarms"] == ["reference_non_finite"]


@pytest.mark.parametrize("name", ["items", "lengths", "probes", "alone"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_everywhere(name: str, value: float) -> None:
    """Catches one infinity, which is no probability, that nothing notices."""
    reference = make("classify")
    candidate = rounded(reference)
    candidate[name][1][2] = value
    report = judge(reference, candidate)
    assert "non_finite" in report["alarms"]
    assert report["measures"]["non_finite"] == 1
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("first", [191, 512])
def test_first_tokens_that_are_off_at_long_texts_are_seen(first: int) -> None:
    """Catches 5 nats at some lengths, hidden in the mean over all."""
    reference = make("generate")
    candidate = rounded(reference)
    for ids, row in zip(
        reference["plan"]["lengths"], candidate["lengths"], strict=True
    ):
        if len(ids) >= first:
            row["top"][0][0][1] -= 5
    report = judge(reference, candidate)
    failed = {c["name"] for c in report["checks"] if c["verdict"] != "pass"}
    assert "length_drift_max" in failed
    assert report["measures"]["length_drift_max"] == pytest.approx(5)


def test_one_empty_answer_counts() -> None:
    """Catches an answer without a token that counts as no drift."""
    reference = make("generate")
    for part, index in (("lengths", 70), ("alone", 0), ("items", 3)):
        candidate = rounded(reference)
        candidate[part][index].update(tokens=[], logprobs=[], top=[])
        if part == "items":
            candidate["own"][index] = []
        report = judge(reference, candidate)
        assert "empty_output" in report["alarms"], part
        assert report["measures"]["empty_output"] == 1
    # Where the reference stops at once as well, that is the model's answer.
    for arm in (reference, candidate := copy.deepcopy(reference)):
        arm["lengths"][3].update(tokens=[], logprobs=[], top=[])
    candidate = rounded(candidate)
    assert judge(reference, candidate)["verdict"] == "pass"


def test_logprobs_that_drift_fail_and_their_perplexity() -> None:
    """Catches generation judged by its tokens alone."""
    reference = make("generate")
    candidate = copy.deepcopy(reference)
    candidate["forced"] = [[x - 0.5 for x in row] for row in candidate["forced"]]
    report = judge(reference, candidate)
    failed = {c["name"] for c in report["checks"] if c["verdict"] != "pass"}
    assert failed == {"logprob_drift_mean", "perplexity_ratio"}
    assert report["verdict"] == "drift"
    ratio = report["measures"]["perplexity_ratio"]
    assert ratio == pytest.approx(math.exp(0.5), rel=1e-6)
    candidate["forced"] = [[x - 1.5 for x in row] for row in reference["forced"]]
    report = judge(reference, candidate)
    assert report["alarms"] == ["perplexity_ratio", "logprob_drift_mean"]


def test_a_tie_may_fall_the_other_way_and_a_lead_may_not() -> None:
    """Catches token agreement as the criterion, which sound FP8 fails."""
    reference = make("generate")
    margins = {}
    for step, token in (("tie", None), ("lead", 200)):
        candidate = rounded(reference)
        for row in candidate["items"]:
            second = row["top"][4][1][0]
            row["tokens"][4] = second if token is None else token
        report = judge(reference, candidate)
        margins[step] = report["measures"]["divergence_margin_median"]
        assert report["measures"]["first_divergence_median"] == 4
        failed = {c["name"] for c in report["checks"] if c["verdict"] != "pass"}
        wrong = {"divergence_margin_median", "divergence_margin_max"}
        # The batch is then another than the items alone, too.
        assert failed - {"batch_margin_max"} == (wrong if step == "lead" else set())
    assert margins == {"tie": pytest.approx(0.3), "lead": pytest.approx(5.0)}


def test_limits_can_be_changed() -> None:
    """Catches a limit that is read and not used."""
    reference = make("embed")
    candidate = rounded(reference)
    report = judge(reference, candidate, {"top1_agreement": (1.5,)})
    assert report["verdict"] == "drift"
    failed = [c for c in report["checks"] if c["verdict"] != "pass"]
    assert [c["name"] for c in failed] == ["top1_agreement"]
    assert (failed[0]["drift"], failed[0]["alarm"]) == (1.5, None)
    report = judge(reference, candidate, {"order_kept": (1.5, 1.2)})
    assert report["alarms"] == ["order_kept"]
    assert judge(reference, reference, {"identical": (1.0,)})["verdict"] == "pass"
    wide = judge(reference, candidate, {"top1_agreement": (-math.inf,)})
    json.dumps(wide, allow_nan=False)
