# SPDX-License-Identifier: Apache-2.0
"""How far scores, embeddings and classes of the candidate are from the reference's."""

from typing import Any

import numpy as np

from vllm_xpu_fp8_plugin.verify import plan
from vllm_xpu_fp8_plugin.verify.ranks import Array, kendall, ndcg, spearman

# Items of which all pairs are compared where no ranking is given.
_PAIRED = 64
# What counts as equal, and as lying on a bound: well below half-precision rounding.
_EQUAL = 1e-6


def compare(
    reference: dict[str, Any], candidate: dict[str, Any]
) -> tuple[dict[str, float], dict[str, str], dict[str, list[float]]]:
    """Return measures, remarks on some of them, and pairs of values to plot.

    Args:
        reference: An arm's result: ``items`` [num_items, width], ``lengths``,
            ``alone`` and the plan.
        candidate: The other's, of the same plan.

    """
    work = reference["plan"]
    task = work["task"]
    ours, theirs = (np.asarray(r["items"], dtype=float) for r in (candidate, reference))
    sweep = [np.asarray(r["lengths"], dtype=float) for r in (candidate, reference)]
    alone = np.asarray(candidate["alone"], dtype=float)
    values: dict[str, float] = {}
    remarks: dict[str, str] = {}

    bad = [~np.isfinite(x).all(axis=1) for x in (ours, sweep[0], alone)]
    values["non_finite"] = float(sum(b.sum() for b in bad))
    if values["non_finite"]:
        sizes = [len(ids) for ids, b in zip(work["lengths"], bad[1], strict=True) if b]
        remarks["non_finite"] = describe_lengths(sizes, work["page"])
    values["reference_non_finite"] = float((~np.isfinite(theirs).all(axis=1)).sum())
    distance = _cosine_distance if task == plan.EMBED else _difference

    name = "cosine_drift" if task == plan.EMBED else "score_drift"
    drift = distance(ours, theirs)
    values |= _spread(name, drift)
    length_drift = distance(*sweep)
    values["length_drift_max"] = _maximum(length_drift)
    values["length_drift_mean"] = _mean(length_drift)
    if np.isfinite(length_drift).any():
        worst = len(work["lengths"][int(np.nanargmax(length_drift))])
        remarks["length_drift_max"] = f"at {worst} token{'s' * (worst > 1)}"
    values["batch_drift_max"] = _maximum(distance(ours[work["alone"]], alone))
    values["all_equal"] = float(_all_equal(ours) and not _all_equal(theirs))

    if task == plan.CLASSIFY:
        same = np.argmax(ours, axis=1) == np.argmax(theirs, axis=1)
        values["label_agreement"] = float(same.mean())
        pairs = _top_probability(ours, theirs)
    else:
        pairs = _rankings(work, ours, theirs, values)
    if task != plan.EMBED:
        values["saturated"] = max(0.0, _saturated(ours) - _saturated(theirs))
    return values, remarks, pairs


def describe_lengths(sizes: list[int], page: int) -> str:
    """Say at which lengths, and what they have in common."""
    if not sizes:
        return "at none of the lengths of the sweep"
    shown = ", ".join(map(str, sizes[:6])) + (", ..." if len(sizes) > 6 else "")
    remainders = {n % page for n in sizes}
    if len(sizes) > 1 and len(remainders) == 1:
        shown += f": length % {page} == {remainders.pop()}"
    return f"at {shown} tokens" if ":" not in shown else f"at lengths {shown}"


def _rankings(
    work: dict[str, Any], ours: Array, theirs: Array, values: dict[str, float]
) -> dict[str, list[float]]:
    """Add the measures of order to `values`; return the scores, all in one list."""
    groups = [_scores(work, x) for x in (ours, theirs)]
    all_ours, all_theirs = (np.concatenate(g) for g in groups)
    if work["task"] == plan.EMBED:
        values |= _spread("score_drift", np.abs(all_ours - all_theirs))
    rho, tau, top, gain = [], [], [], []
    labelled: list[tuple[float, float]] = []
    for i, (a, b) in enumerate(zip(*groups, strict=True)):
        # Finite, so that no difference of two of them is NaN.
        a, b = (np.nan_to_num(x, nan=-1e9, posinf=1e9, neginf=-1e9) for x in (a, b))
        rho.append(spearman(a, b))
        tau.append(kendall(a, b))
        top.append(float(np.argmax(a) == np.argmax(b)))
        # The reference's order as grades, the last one 0.
        gain.append(ndcg(np.argsort(np.argsort(b, kind="stable")).astype(float), a))
        grades = work["rankings"][i].get("relevance") if work["rankings"] else None
        if grades:
            relevance = np.asarray(grades, dtype=float)
            labelled.append((ndcg(relevance, a), ndcg(relevance, b)))
    values["spearman_mean"] = float(np.mean(rho))
    values["kendall_mean"] = float(np.mean(tau))
    values["order_kept"] = values["spearman_mean"]
    if work["rankings"]:
        values["top1_agreement"] = float(np.mean(top))
        values["ndcg10_agreement"] = float(np.mean(gain))
    if labelled:
        candidate, reference = np.mean(labelled, axis=0)
        values["ndcg10_labels_candidate"] = float(candidate)
        values["ndcg10_labels_reference"] = float(reference)
        values["ndcg10_labels_loss"] = float(reference - candidate)
    pairs = {"candidate": all_ours.tolist(), "reference": all_theirs.tolist()}
    if work["rankings"]:
        pairs["sizes"] = [len(group) for group in groups[0]]
    return pairs


def _scores(work: dict[str, Any], vectors: Array) -> list[Array]:
    """Return the scores of each ranking; without rankings, of all pairs of items."""
    rankings = work["rankings"]
    if work["task"] == plan.SCORE:
        ends = np.cumsum([len(r["documents"]) for r in rankings])
        return np.split(vectors[:, 0], ends[:-1])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    if not rankings:
        some = unit[:_PAIRED]
        return [(some @ some.T)[np.triu_indices(len(some), 1)]]
    index = {text: i for i, text in enumerate(work["items"])}
    return [
        unit[[index[d] for d in r["documents"]]] @ unit[index[r["query"]]]
        for r in rankings
    ]


def _cosine_distance(a: Array, b: Array) -> Array:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # A vector of zeros is as far as can be from any direction.
    cosine = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1), 0)
    distance: Array = 1 - cosine
    return distance


def _difference(a: Array, b: Array) -> Array:
    greatest: Array = np.abs(a - b).max(axis=1)
    return greatest


def _spread(name: str, drift: Array) -> dict[str, float]:
    finite = drift[np.isfinite(drift)]
    if not finite.size:
        return {f"{name}_{x}": float("nan") for x in ("max", "mean", "p99")}
    return {
        f"{name}_max": float(finite.max()),
        f"{name}_mean": float(finite.mean()),
        f"{name}_p99": float(np.quantile(finite, 0.99)),
    }


def _maximum(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else float("nan")


def _mean(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _all_equal(vectors: Array) -> bool:
    return bool(len(vectors) > 1 and np.ptp(vectors, axis=0).max() < _EQUAL)


def _saturated(scores: Array) -> float:
    """Return the share of scores that sit on 0, 0.5 or 1."""
    bounds = np.abs(scores[..., None] - np.array([0.0, 0.5, 1.0])).min(axis=-1)
    return float((bounds < _EQUAL).mean())


def _top_probability(ours: Array, theirs: Array) -> dict[str, list[float]]:
    """Return the probabilities of the reference's label."""
    rows, labels = np.arange(len(theirs)), np.argmax(theirs, axis=1)
    return {
        "candidate": ours[rows, labels].tolist(),
        "reference": theirs[rows, labels].tolist(),
    }
