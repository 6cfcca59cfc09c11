# SPDX-License-Identifier: Apache-2.0
"""How far the candidate's greedy text and logprobs are from the reference's."""

import itertools
import math
from typing import Any

import numpy as np

from vllm_xpu_fp8_plugin.verify.lengths import describe_lengths, sweep
from vllm_xpu_fp8_plugin.verify.rank_statistics import Array, longest_run

Rows = list[dict[str, Any]]


def compare(
    reference: dict[str, Any], candidate: dict[str, Any]
) -> tuple[dict[str, float], dict[str, str], dict[str, list[float]]]:
    """Return measures, remarks on some of them, and pairs of values to plot.

    Args:
        reference: An arm's result: ``items``, ``lengths`` and ``alone`` (each a list
            of ``tokens``, ``logprobs`` and ``top``), ``forced`` and ``own`` (lists of
            logprobs), and the plan.
        candidate: The other's, of the same plan.

    """
    work = reference["plan"]
    ours, theirs = candidate["items"], reference["items"]
    values: dict[str, float] = {}
    remarks: dict[str, str] = {}

    values["non_finite"] = float(_non_finite(candidate))
    values["reference_non_finite"] = float(_non_finite(reference))
    if values["non_finite"]:
        rows = zip(work["lengths"], candidate["lengths"], strict=True)
        bad = [len(ids) for ids, row in rows if not np.isfinite(row["logprobs"]).all()]
        remarks["non_finite"] = describe_lengths(bad, work)
    values |= _texts(ours, theirs)
    values["greedy_gap"] = max(map(_greedy_gap, ours))
    empty = [
        sum(not row["tokens"] for x in ("items", "lengths", "alone") for row in arm[x])
        for arm in (candidate, reference)
    ]
    values["empty_output"] = float(max(0, empty[0] - empty[1]))
    drift, pairs = _forced(work, reference, candidate, values)
    values["logprob_drift_mean"] = float(drift.mean())
    values["logprob_drift_p99"] = float(np.quantile(drift, 0.99))
    values["logprob_drift_max"] = float(drift.max())
    rows = zip(reference["lengths"], candidate["lengths"], strict=True)
    sweep(work, np.array([_first_drift(r, c) for r, c in rows]), values, remarks)
    together = [ours[i] for i in work["alone"]]
    margins = [_margin(a, b) for a, b in zip(together, candidate["alone"], strict=True)]
    values["batch_margin_max"] = max(margins)
    for name, arm in (("candidate", candidate), ("reference", reference)):
        gaps = [
            abs(a - b)
            for row, own in zip(arm["items"], arm["own"], strict=True)
            for a, b in zip(row["logprobs"], own, strict=True)
        ]
        values[f"decode_gap_{name}"] = _mean_finite(gaps)
        finite = [x for x in gaps if math.isfinite(x)]
        values[f"decode_gap_max_{name}"] = max(finite, default=0.0)
    for name in ("decode_gap", "decode_gap_max"):
        values[name] = values.pop(f"{name}_candidate")
    return values, remarks, pairs


def adjacent_repeats(rows: Rows) -> float:
    """Return the share of tokens that repeat the one before."""
    pairs = [p for row in rows for p in itertools.pairwise(row["tokens"])]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 0.0


def first_divergence(a: list[int], b: list[int]) -> int | None:
    """Return the first position where two token sequences differ, None if none."""
    for i, (x, y) in enumerate(itertools.zip_longest(a, b)):
        if x != y:
            return i
    return None


def _texts(ours: Rows, theirs: Rows) -> dict[str, float]:
    """Compare the greedy texts."""
    agreed = total = 0
    divergences, margins = [], []
    for mine, other in zip(ours, theirs, strict=True):
        a, b = mine["tokens"], other["tokens"]
        agreed += sum(x == y for x, y in zip(a, b, strict=False))
        total += max(len(a), len(b))
        position = first_divergence(a, b)
        divergences.append(len(b) if position is None else position)
        margins.append(_margin(other, mine))
    runs = [max(longest_run(r["tokens"]) for r in rows) for rows in (ours, theirs)]
    same = sum(m["tokens"] == o["tokens"] for m, o in zip(ours, theirs, strict=True))
    repeats = [adjacent_repeats(rows) for rows in (ours, theirs)]
    return {
        "token_agreement": agreed / total if total else 1.0,
        "same_text": same / len(ours),
        "first_divergence_median": float(np.median(divergences)),
        "divergence_margin_median": float(np.median([m for m in margins if m] or [0])),
        "divergence_margin_max": max(margins),
        "adjacent_repeats": max(0.0, repeats[0] - repeats[1]),
        "adjacent_repeats_candidate": repeats[0],
        "adjacent_repeats_reference": repeats[1],
        "longest_run": float(runs[0] - runs[1]),
        "longest_run_candidate": float(runs[0]),
        "longest_run_reference": float(runs[1]),
    }


def _forced(
    work: dict[str, Any],
    reference: dict[str, Any],
    candidate: dict[str, Any],
    values: dict[str, float],
) -> tuple[Array, dict[str, list[float]]]:
    """Return the drift on the reference's tokens; add perplexities to `values`."""
    on_tokens: dict[str, list[float]] = {}
    for name, arm in (("reference", reference), ("candidate", candidate)):
        rows = zip(arm["forced"], work["starts"], strict=True)
        on_tokens[name] = [x for row, n in rows for x in row[n - 1 :]]
        mean = -_mean_finite([x for row in arm["forced"] for x in row])
        values[f"perplexity_{name}"] = math.exp(min(mean, 700.0))
    values["perplexity_ratio"] = (
        values["perplexity_candidate"] / values["perplexity_reference"]
    )
    both = np.array([on_tokens["candidate"], on_tokens["reference"]])
    both = both[:, np.isfinite(both).all(axis=0)]
    drift = np.abs(both[0] - both[1])
    return drift if drift.size else np.array([math.nan]), on_tokens


def _margin(judge: dict[str, Any], other: dict[str, Any]) -> float:
    """Return how far from a tie two texts first differ, in nats, 0 if they do not.

    It is the lead, by the logprobs of `judge`, of its own token over the other's.
    Rounding can decide a tie; it cannot overturn a clear lead.
    """
    position = first_divergence(judge["tokens"], other["tokens"])
    if position is None:
        return 0.0
    if position >= len(judge["top"]) or position >= len(other["tokens"]):
        # One text ends where the other goes on: both chose by the same step before.
        return 0.0
    top = {token: logprob for token, logprob in judge["top"][position]}
    floor = min(top.values())
    token = judge["tokens"][position]
    lead = top.get(token, floor) - top.get(other["tokens"][position], floor)
    return lead if math.isfinite(lead) else math.inf


def _greedy_gap(row: dict[str, Any]) -> float:
    """Return the greatest lead of a likelier token over the one that was taken."""
    steps = zip(row["top"], row["logprobs"], strict=True)
    gaps = [logprob - taken for top, taken in steps for _, logprob in top]
    return max((x for x in gaps if math.isfinite(x)), default=0.0)


def _first_drift(reference: dict[str, Any], candidate: dict[str, Any]) -> float:
    """Return the drift, in nats, of the logprob of the reference's first token.

    0 if the reference has none. An answer without a token, where the reference has
    one, is as far as can be; one that is not finite is NaN.
    """
    if not reference["top"]:
        return 0.0
    if not candidate["top"]:
        return math.inf
    token, logprob = max(reference["top"][0], key=lambda pair: pair[1])
    found = {token: logprob for token, logprob in candidate["top"][0]}
    # A token that is not among the most likely ones is at best as likely as the last.
    return float(abs(found.get(token, min(found.values())) - logprob))


def _non_finite(arm: dict[str, Any]) -> int:
    """Count the sequences with a logprob that is NaN or infinite."""
    rows = [row["logprobs"] for x in ("items", "lengths", "alone") for row in arm[x]]
    return sum(not np.isfinite(row).all() for row in rows + arm["forced"] + arm["own"])


def _mean_finite(values: list[float]) -> float:
    """Return the mean of what is finite; NaN if nothing is, 0 of no values."""
    finite = [x for x in values if math.isfinite(x)]
    if not values:
        return 0.0
    return sum(finite) / len(finite) if finite else math.nan
