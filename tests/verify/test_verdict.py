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
from vllm_xpu_fp8_plugin.verify.verdict import described, judge

Result = dict[str, Any]


def make(task: str) -> Result:
    return results.generation() if task == "generate" else results.pooling(task)


def rounded(arm: Result) -> Result:
    """Return a sound candidate's result: the reference's, a little off."""
    arm = copy.deepcopy(arm)
    if "forced" in arm:
        arm["forced"] = [[x - 0.001 for x in row] for row in arm["forced"]]
        return arm
    for name in ("items", "lengths", "probes", "alone"):
        arm[name] = [[x * 1.001 for x in row] for row in arm[name]]
    return arm


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
    report = judge(reference, candidate)
    assert report["verdict"] == "pass"
    assert "fp8_layers" not in [check["name"] for check in report["checks"]]
    assert described(candidate["fp8"]) == (
        "FP8: 0 of 24 linear layers, 20 quantised to another format, 0 of 3 KV caches"
    )
    candidate["kv_cache_dtype"] = "fp8"
    assert judge(reference, candidate)["alarms"] == ["fp8_layers"]
    candidate["fp8"]["caches_fp8"] = 3
    report = judge(reference, candidate)
    assert report["measures"]["fp8_layers"] == 3


def nan_at_a_remainder(arm: Result) -> None:
    for ids, row in zip(arm["plan"]["lengths"], arm["lengths"], strict=True):
        if len(ids) % 64 == 5:
            if isinstance(row, dict):
                row["logprobs"][0] = math.nan
            else:
                row[0] = math.nan


def one_score(arm: Result) -> None:
    for name in ("items", "lengths", "probes", "alone"):
        arm[name] = [[0.3] * len(x) for x in arm[name]]


def ignored_input(arm: Result) -> None:
    rng = np.random.default_rng(1)
    for name in ("items", "lengths", "probes"):
        shape = np.shape(arm[name])
        arm[name] = (0.2 + rng.normal(scale=1e-5, size=shape)).tolist()
    arm["alone"] = [arm["items"][i] for i in arm["plan"]["alone"]]


def twice_as_long(arm: Result) -> None:
    for name in ("items", "lengths", "alone"):
        arm[name] = [[2.1 * x for x in row] for row in arm[name]]


def one_vector_shorter(arm: Result) -> None:
    arm["lengths"][7] = [0.4 * x for x in arm["lengths"][7]]


def empty_sweep(arm: Result) -> None:
    for row in arm["lengths"]:
        row.update(tokens=[], logprobs=[], top=[])


def one_gap(arm: Result) -> None:
    arm["items"][1]["logprobs"][5] -= 2


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
