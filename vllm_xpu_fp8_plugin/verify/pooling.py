# SPDX-License-Identifier: Apache-2.0
"""How far scores, embeddings and classes of the candidate are from the reference's."""

from typing import Any

import numpy as np

from vllm_xpu_fp8_plugin.verify import plan, rankings
from vllm_xpu_fp8_plugin.verify.lengths import describe_lengths, sweep
from vllm_xpu_fp8_plugin.verify.rank_statistics import Array
from vllm_xpu_fp8_plugin.verify.spread import (
    AS_GIVEN,
    response_error,
    space,
    spread,
    transform,
)

# Items of which all pairs are compared where no ranking is given.
_PAIRED = 64
# What counts as equal, and as lying on a bound: well below half-precision rounding.
_EQUAL = 1e-6
_PARTS = ("items", "lengths", "probes", "alone")

Compared = tuple[dict[str, float], dict[str, str], dict[str, list[float]]]


def compare(reference: dict[str, Any], candidate: dict[str, Any]) -> Compared:
    """Return measures, remarks on some of them, and pairs of values to plot.

    Args:
        reference: An arm's result: ``items`` [num_items, width], ``lengths``,
            ``probes``, ``alone`` and the plan.
        candidate: The other's, of the same plan.

    Raises:
        ValueError: An arm has fewer answers than the other.

    """
    work = reference["plan"]
    width = len(reference["items"][0])
    theirs, ours = (
        {x: np.asarray(arm[x], dtype=float).reshape(-1, width) for x in _PARTS}
        for arm in (reference, candidate)
    )
    for x in _PARTS:
        if len(ours[x]) != len(theirs[x]):
            raise ValueError(f"{x}: {len(ours[x])} answers to {len(theirs[x])} inputs")
    values: dict[str, float] = {}
    remarks: dict[str, str] = {}
    bad = {x: ~np.isfinite(ours[x]).all(axis=1) for x in _PARTS}
    values["non_finite"] = float(sum(b.sum() for b in bad.values()))
    if values["non_finite"]:
        sizes = _sizes(work, bad["lengths"])
        remarks["non_finite"] = describe_lengths(sizes, work)
    values["reference_non_finite"] = float(
        sum((~np.isfinite(x).all(axis=1)).sum() for x in theirs.values())
    )
    answers = np.concatenate([ours["items"], ours["lengths"], ours["probes"]])
    values["all_equal"] = float(np.ptp(answers, axis=0).max() < _EQUAL)
    if work["task"] == plan.EMBED:
        pairs = _embeddings(work, _finite(ours), _finite(theirs), values, remarks)
    else:
        pairs = _scores(work, ours, theirs, values, remarks)
    return values, remarks, pairs


def _finite(arm: dict[str, Array]) -> dict[str, Array]:
    """Return the answers with NaN throughout where one number is not finite."""
    return {
        x: np.where(np.isfinite(a).all(axis=1, keepdims=True), a, np.nan)
        for x, a in arm.items()
    }


def _sizes(work: dict[str, Any], chosen: Array) -> list[int]:
    return [len(ids) for ids, c in zip(work["lengths"], chosen, strict=True) if c]


def _scores(
    work: dict[str, Any],
    ours: dict[str, Array],
    theirs: dict[str, Array],
    values: dict[str, float],
    remarks: dict[str, str],
) -> dict[str, list[float]]:
    """Add the measures of scores and classes; return pairs to plot."""
    values["saturated"] = max(0.0, _saturated(ours["items"], theirs["items"]))
    everything = np.concatenate([theirs["items"], theirs["lengths"], theirs["probes"]])
    where = space(everything)
    r, c = ({x: transform(arm[x], where) for x in _PARTS} for arm in (theirs, ours))
    others = [np.concatenate([arm["lengths"], arm["probes"]]) for arm in (r, c)]
    unit = max(spread(r["items"], others[0]), where.least)
    values["spread"] = unit
    remarks["spread"] = where.name
    groups = [[r["items"], others[0]], [c["items"], others[1]]]
    values["response_error"] = response_error(*groups)
    drift = _difference(c["items"], r["items"]) / unit
    values |= _summary("score_drift", drift)
    probed = _difference(c["probes"], r["probes"]) / unit
    values["score_drift_max"] = _worst(values["score_drift_max"], probed)
    lengths = _difference(c["lengths"], r["lengths"]) / unit
    sweep(work, lengths, values, remarks)
    alone = _difference(c["items"][work["alone"]], c["alone"]) / unit
    values["batch_drift_max"] = _worst(-np.inf, alone)
    if work["task"] == plan.CLASSIFY:
        rows, labels = np.arange(len(drift)), np.argmax(r["items"], axis=1)
        chosen = np.argmax(c["items"], axis=1)
        lead = r["items"][rows, labels] - r["items"][rows, chosen]
        # Rows that are not finite are NaN throughout, and have no label.
        lead[np.isnan(drift)] = np.inf
        values["label_agreement"] = float((lead < rankings.CLEAR * unit).mean())
        return _pairs(ours["items"][rows, labels], theirs["items"][rows, labels])
    sizes = [len(x["documents"]) for x in work["rankings"]]
    split = [np.split(x["items"].ravel(), np.cumsum(sizes)[:-1]) for x in (r, c)]
    _add_order(work, split[0], split[1], unit, values, remarks)
    pairs = _pairs(ours["items"].ravel(), theirs["items"].ravel())
    return {**pairs, "sizes": [float(n) for n in sizes]}


def _embeddings(
    work: dict[str, Any],
    ours: dict[str, Array],
    theirs: dict[str, Array],
    values: dict[str, float],
    remarks: dict[str, str],
) -> dict[str, list[float]]:
    """Add the measures of vectors and their cosines; return pairs to plot."""
    drift = _cosine_distance(ours["items"], theirs["items"])
    values |= _summary("cosine_drift", drift)
    lengths = _cosine_distance(ours["lengths"], theirs["lengths"])
    sweep(work, lengths, values, remarks)
    alone = _cosine_distance(ours["items"][work["alone"]], ours["alone"])
    values["batch_drift_max"] = _worst(-np.inf, alone)
    norms = [
        np.concatenate([np.linalg.norm(x[k], axis=1) for k in _PARTS])
        for x in (ours, theirs)
    ]
    values["norm_drift_max"] = _worst(-np.inf, _log_ratio(*norms))
    r, c = (_cosines(work, x["items"]) for x in (theirs, ours))
    all_r, all_c = np.concatenate(r), np.concatenate(c)
    unit = spread(all_r[:, None])
    values["spread"] = unit
    remarks["spread"] = AS_GIVEN
    values["response_error"] = response_error([all_r[:, None]], [all_c[:, None]])
    values |= _summary("score_drift", np.abs(all_c - all_r) / unit)
    _add_order(work, r, c, unit, values, remarks)
    pairs = _pairs(all_c, all_r)
    if work["rankings"]:
        pairs["sizes"] = [float(len(x)) for x in r]
    return pairs


def _add_order(
    work: dict[str, Any],
    reference: list[Array],
    candidate: list[Array],
    unit: float,
    values: dict[str, float],
    remarks: dict[str, str],
) -> None:
    found, said = rankings.order(reference, candidate, unit)
    if work["rankings"]:
        found |= rankings.graded(work["rankings"], reference, candidate)
    else:
        # All pairs of texts are no ranking that has a first document.
        for name in ("top1_agreement", "ndcg10_agreement"):
            del found[name]
    values |= found
    remarks |= said


def _cosines(work: dict[str, Any], vectors: Array) -> list[Array]:
    """Return the cosines of each ranking; without rankings, of all pairs of items."""
    unit = _unit(vectors)
    if not work["rankings"]:
        some = unit[:_PAIRED]
        return [(some @ some.T)[np.triu_indices(len(some), 1)]]
    index = {text: i for i, text in enumerate(work["items"])}
    return [
        unit[[index[d] for d in r["documents"]]] @ unit[index[r["query"]]]
        for r in work["rankings"]
    ]


def _unit(vectors: Array) -> Array:
    """Return vectors of length 1; zeros stay, as far as can be from any direction."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Array = np.divide(
        vectors, norms, out=np.zeros_like(vectors), where=norms != 0
    )
    return unit


def _cosine_distance(a: Array, b: Array) -> Array:
    distance: Array = 1 - (_unit(a) * _unit(b)).sum(axis=1)
    return distance


def _log_ratio(a: Array, b: Array) -> Array:
    """Return |log(a / b)|: 0 where both are 0, infinite where one is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = np.abs(np.log(a) - np.log(b))
    ratio[a == b] = 0
    return ratio


def _difference(a: Array, b: Array) -> Array:
    greatest: Array = np.abs(a - b).max(axis=1)
    return greatest


def _summary(name: str, drift: Array) -> dict[str, float]:
    finite = drift[np.isfinite(drift)]
    if not finite.size:
        return {f"{name}_{x}": float("nan") for x in ("max", "mean", "p99")}
    return {
        f"{name}_max": float(finite.max()),
        f"{name}_mean": float(finite.mean()),
        f"{name}_p99": float(np.quantile(finite, 0.99)),
    }


def _worst(value: float, more: Array) -> float:
    """Return the greatest of all, but for NaN, which `non_finite` counts."""
    greatest = float(more[~np.isnan(more)].max(initial=value))
    return greatest if greatest > -np.inf else float("nan")


def _saturated(ours: Array, theirs: Array) -> float:
    """Return the share of answers on 0, 0.5 or 1, beyond the reference's."""
    bounds = np.array([0.0, 0.5, 1.0])
    shares = [
        (np.abs(x[..., None] - bounds).min(axis=-1) < _EQUAL).mean()
        for x in (ours, theirs)
    ]
    return float(shares[0] - shares[1])


def _pairs(ours: Array, theirs: Array) -> dict[str, list[float]]:
    return {"candidate": ours.tolist(), "reference": theirs.tolist()}
