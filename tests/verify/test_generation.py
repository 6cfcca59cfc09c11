# SPDX-License-Identifier: Apache-2.0
"""The measures of generated text, by hand on a few tokens."""

import copy
import math
from typing import Any

import numpy as np
import pytest

from vllm_xpu_fp8_plugin.verify import generation

Result = dict[str, Any]


def row(tokens: list[int], *, lead: float = 2.0) -> Result:
    """Return an answer whose tokens lead token 99 by so many nats."""
    return {
        "tokens": list(tokens),
        "logprobs": [-0.5] * len(tokens),
        "top": [[[t, -0.5], [99, -0.5 - lead], [98, -9.0]] for t in tokens],
    }


def arm() -> Result:
    items = [row([1, 2, 3, 4]), row([5, 6])]
    work = {
        "task": "generate",
        "page": 64,
        "items": [[7, 8, 9], [7, 8]],
        "lengths": [[0], [0] * 5, [0] * 69],
        "alone": [0, 1],
        "starts": [3, 2],
    }
    return {
        "plan": work,
        "items": items,
        "lengths": [row([1]), row([2]), row([3])],
        "alone": copy.deepcopy(items),
        "own": [[-0.5] * 4, [-0.5] * 2],
        # Two and one of the prompts, then the texts.
        "forced": [[-3.0, -2.0, -0.5, -0.5, -0.5, -0.5], [-4.0, -0.5, -0.5]],
    }


def compared(candidate: Result, reference: Result | None = None) -> dict[str, float]:
    return generation.compare(reference or arm(), candidate)[0]


def test_the_same_text_has_no_drift() -> None:
    """Catches a measure that is not at its best for equal answers."""
    values, remarks, pairs = generation.compare(arm(), arm())
    assert values == {
        **dict.fromkeys(
            (
                *("non_finite", "reference_non_finite", "empty_output"),
                *("divergence_margin_median", "divergence_margin_max"),
                *("adjacent_repeats", "adjacent_repeats_candidate"),
                *("adjacent_repeats_reference", "longest_run", "decode_gap"),
                *("decode_gap_max", "decode_gap_reference", "greedy_gap"),
                *("decode_gap_max_reference", "logprob_drift_mean"),
                *("logprob_drift_p99", "logprob_drift_max", "lengths_off"),
                *("length_drift_max", "length_drift_mean", "batch_margin_max"),
            ),
            0.0,
        ),
        "token_agreement": 1.0,
        "same_text": 1.0,
        "first_divergence_median": 3.0,
        "longest_run_candidate": 1.0,
        "longest_run_reference": 1.0,
        "perplexity_ratio": 1.0,
        "perplexity_candidate": pytest.approx(math.exp(12 / 9)),
        "perplexity_reference": pytest.approx(math.exp(12 / 9)),
    }
    assert remarks == {"length_drift_max": "at 1 token"}
    assert pairs == {"reference": [-0.5] * 6, "candidate": [-0.5] * 6}


def test_drift_is_of_the_references_tokens_alone() -> None:
    """Catches prompts that count as text, and a percentile that is another."""
    candidate = arm()
    candidate["forced"] = [[-9.0, -2.0, -0.6, -0.5, -1.5, -0.5], [-4.0, -0.7, -0.5]]
    values, _, pairs = generation.compare(arm(), candidate)
    drift = [0.1, 0, 1, 0, 0.2, 0]
    assert values["logprob_drift_mean"] == pytest.approx(1.3 / 6)
    assert values["logprob_drift_max"] == pytest.approx(1)
    assert values["logprob_drift_p99"] == pytest.approx(np.quantile(drift, 0.99))
    assert values["perplexity_candidate"] == pytest.approx(math.exp(19.3 / 9))
    assert values["perplexity_ratio"] == pytest.approx(math.exp(7.3 / 9))
    assert pairs["candidate"] == [-0.6, -0.5, -1.5, -0.5, -0.7, -0.5]


def test_texts_are_compared_token_by_token() -> None:
    """Catches positions counted from another end, and texts of unequal lengths."""
    candidate = arm()
    candidate["items"] = [row([1, 2, 99, 4]), row([5])]
    candidate["own"] = [[-0.5] * 4, [-0.5]]
    values = compared(candidate)
    assert values["token_agreement"] == pytest.approx(4 / 6)
    assert values["same_text"] == 0
    assert values["first_divergence_median"] == pytest.approx(1.5)
    # The reference's token led the other by two nats; a text that ends has no lead.
    assert values["divergence_margin_max"] == pytest.approx(2)
    assert values["divergence_margin_median"] == pytest.approx(2)


def test_a_token_that_is_not_among_the_likely_ones_is_as_the_last() -> None:
    """Catches a lead of nothing where the other token is not in the list."""
    candidate = arm()
    candidate["items"][0] = row([1, 50, 3, 4])
    assert compared(candidate)["divergence_margin_max"] == pytest.approx(8.5)
    reference = arm()
    reference["items"][0]["top"][1][2][1] = -math.inf
    assert compared(candidate, reference)["divergence_margin_max"] == math.inf


def test_repeats_and_runs_count_beyond_the_references() -> None:
    """Catches a pair across texts, and a run that the reference has too."""
    candidate = arm()
    candidate["items"] = [row([1, 1, 1, 2]), row([2, 2])]
    values = compared(candidate)
    assert values["adjacent_repeats_candidate"] == pytest.approx(3 / 4)
    assert values["adjacent_repeats"] == pytest.approx(3 / 4)
    assert values["longest_run"] == 2
    assert values["longest_run_candidate"] == 3
    reference = arm()
    reference["items"] = [row([1, 1, 2, 3]), row([2, 2])]
    values = compared(candidate, reference)
    assert values["adjacent_repeats"] == pytest.approx(1 / 4)
    assert values["adjacent_repeats_reference"] == pytest.approx(2 / 4)
    assert values["longest_run"] == 1
    assert (values["longest_run_candidate"], values["longest_run_reference"]) == (3, 2)
    assert compared(reference, candidate)["adjacent_repeats"] == 0
    assert generation.adjacent_repeats([row([1]), row([])]) == 0


def test_empty_answers_count_in_each_part_beyond_the_references() -> None:
    """Catches a part that may be empty, and answers that are rightly so."""
    for part in ("items", "lengths", "alone"):
        candidate = arm()
        candidate[part][1] = row([])
        if part == "items":
            candidate["own"][1] = []
        assert compared(candidate)["empty_output"] == 1
        assert compared(arm(), candidate)["empty_output"] == 0
        assert compared(candidate, candidate)["empty_output"] == 0


def test_sweep_is_the_drift_of_the_first_token() -> None:
    """Catches an empty answer without drift, and another token's logprob."""
    candidate = arm()
    candidate["lengths"] = [row([1]), row([99]), row([])]
    # Here the reference's token is second, by a nat and a half.
    candidate["lengths"][1]["top"] = [[[99, -0.4], [2, -2.0]]]
    values, remarks, _ = generation.compare(arm(), candidate)
    assert values["length_drift_max"] == math.inf
    assert values["lengths_off"] == pytest.approx(2 / 3)
    assert remarks["length_drift_max"] == "at 69 tokens"
    candidate["lengths"][2] = row([3])
    values = compared(candidate)
    assert values["length_drift_max"] == pytest.approx(1.5)
    assert values["length_drift_mean"] == pytest.approx(0.5)
    # Not among the likely ones: as the last of them, which is a lower bound.
    candidate["lengths"][1]["top"] = [[[99, -0.4], [4, -3.0]]]
    assert compared(candidate)["length_drift_max"] == pytest.approx(2.5)
    reference = arm()
    reference["lengths"][1] = row([])
    values = compared(candidate, reference)
    assert values["length_drift_max"] == values["length_drift_mean"] == 0
    # The reference's own token is its likeliest, in whatever place that is.
    reference = arm()
    reference["lengths"][0]["top"] = [[[99, -2.5], [1, -0.5]]]
    assert compared(arm(), reference)["length_drift_max"] == 0


def test_sweep_is_of_the_first_token_if_there_are_more() -> None:
    """Catches the last token of a text, which other tokens lead to."""
    reference, candidate = arm(), arm()
    reference["lengths"][0] = row([1, 2])
    candidate["lengths"][0] = row([1, 50])
    candidate["lengths"][0]["top"][0][0][1] = -0.9
    assert compared(candidate, reference)["length_drift_max"] == pytest.approx(0.4)


@pytest.mark.parametrize("part", ["items", "lengths", "alone", "own", "forced"])
def test_answers_that_are_missing_are_no_answers(part: str) -> None:
    """Catches an arm with fewer answers, of which those that are there agree."""
    candidate = arm()
    del candidate[part][-1]
    with pytest.raises(ValueError, match="zip"):
        compared(candidate)
    candidate = arm()
    candidate["own"][0].pop()
    with pytest.raises(ValueError, match="zip"):
        compared(candidate)
    candidate = arm()
    candidate["lengths"][0]["logprobs"] = [math.nan]
    del candidate["lengths"][2]
    with pytest.raises(ValueError, match="zip"):
        compared(candidate)


def test_batch_margin_is_the_candidates_own() -> None:
    """Catches an item alone that is compared with another item, or by its own lead."""
    candidate = arm()
    candidate["alone"][1] = row([5, 99], lead=7)
    values = compared(candidate)
    assert values["batch_margin_max"] == pytest.approx(2)
    candidate["plan"]["alone"] = [1, 0]
    reference = arm()
    reference["plan"]["alone"] = [1, 0]
    candidate["alone"] = [row([5, 6]), row([1, 2, 3, 99])]
    assert compared(candidate, reference)["batch_margin_max"] == pytest.approx(2)


def test_decode_gap_is_between_writing_and_reading() -> None:
    """Catches a gap of the reference, a mean of what has a sign, and NaN."""
    candidate = arm()
    candidate["own"] = [[-0.5, -0.1, -0.9, -0.5], [-0.5, -1.5]]
    values = compared(candidate)
    assert values["decode_gap"] == pytest.approx((0.4 + 0.4 + 1) / 6)
    assert values["decode_gap_max"] == pytest.approx(1)
    assert values["decode_gap_reference"] == 0
    values = compared(arm(), candidate)
    assert values["decode_gap_max_reference"] == pytest.approx(1)
    candidate["own"][0][0] = math.nan
    values = compared(candidate)
    assert values["decode_gap"] == pytest.approx(1.8 / 5)
    assert values["non_finite"] == 1
    candidate["own"] = [[math.nan] * 4, [math.nan] * 2]
    assert math.isnan(compared(candidate)["decode_gap"])
    nothing = arm()
    nothing["items"], nothing["own"] = [row([]), row([])], [[], []]
    values = compared(nothing, nothing)
    assert values["decode_gap"] == values["decode_gap_max"] == 0
    assert values["token_agreement"] == 1


def test_a_token_that_is_not_the_likeliest_is_seen() -> None:
    """Catches sampling that takes another token than it was asked for."""
    candidate = arm()
    candidate["items"][0]["tokens"][2] = 99
    candidate["items"][0]["logprobs"][2] = -2.5
    assert compared(candidate)["greedy_gap"] == pytest.approx(2)
    assert compared(arm(), candidate)["greedy_gap"] == 0
    candidate["items"][0]["logprobs"][2] = math.nan
    assert compared(candidate)["greedy_gap"] == 0
    candidate["items"] = [row([]), row([])]
    candidate["own"] = [[], []]
    assert compared(candidate)["greedy_gap"] == 0


def test_what_is_not_finite_is_counted_in_each_part() -> None:
    """Catches a part without a count."""
    for part in ("items", "lengths", "alone"):
        candidate = arm()
        candidate[part][1]["logprobs"][0] = math.nan
        values, remarks, _ = generation.compare(arm(), candidate)
        assert (values["non_finite"], values["reference_non_finite"]) == (1, 0)
        where = {"lengths": "at 5 tokens"}
        fallback = "at none of the lengths of the sweep"
        assert remarks["non_finite"] == where.get(part, fallback)
        assert compared(arm(), candidate)["reference_non_finite"] == 1
    for part in ("own", "forced"):
        candidate = arm()
        candidate[part][0][1] = -math.inf
        assert compared(candidate)["non_finite"] == 1


def test_logprobs_that_are_not_finite_are_left_out() -> None:
    """Catches one NaN that makes every measure NaN, and all of them that make none."""
    candidate = arm()
    candidate["forced"][0][4] = math.nan
    candidate["forced"][1][1] = -0.8
    values = compared(candidate)
    assert values["logprob_drift_mean"] == pytest.approx(0.3 / 5)
    assert values["perplexity_candidate"] == pytest.approx(math.exp(11.8 / 8))
    candidate["forced"] = [[math.nan] * 6, [math.nan] * 3]
    values = compared(candidate)
    for name in ("logprob_drift_mean", "logprob_drift_max", "perplexity_ratio"):
        assert math.isnan(values[name])
    candidate["forced"] = [[-2000.0] * 6, [-2000.0] * 3]
    assert compared(candidate)["perplexity_candidate"] == math.exp(700)


@pytest.mark.parametrize(
    ("a", "b", "position"),
    [
        ([], [], None),
        ([1], [1], None),
        ([1], [2], 0),
        ([1, 2], [1], 1),
        ([1], [1, 2], 1),
        ([1, 2, 3], [1, 2, 4], 2),
    ],
)
def test_first_divergence(a: list[int], b: list[int], position: int | None) -> None:
    """Catches an end that is no difference, and an index that is off by one."""
    assert generation.first_divergence(a, b) == position
