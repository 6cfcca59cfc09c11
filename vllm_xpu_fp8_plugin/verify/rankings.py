# SPDX-License-Identifier: Apache-2.0
"""How far rankings agree, where a swap costs what the reference's lead was worth."""

from typing import Any

import numpy as np

from vllm_xpu_fp8_plugin.verify.rank_statistics import Array, dcg, ndcg, ranks, spearman

# The least lead, in spreads, that rounding must not turn.
CLEAR = 0.25
# Fewer rankings with grades have no standard error worth the name.
_GRADED = 5


def order(
    reference: list[Array], candidate: list[Array], unit: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the measures of order, and remarks on them.

    Args:
        reference: The scores of each ranking ``[num_documents]``.
        candidate: The same of the candidate.
        unit: The spread; leads below `CLEAR` of it count for nothing.

    """
    rho, top, got, best = [], [], 0.0, 0.0
    kept = weight = flipped = 0.0
    for r, c in zip(reference, candidate, strict=True):
        known = np.isfinite(r)
        if known.sum() < 2:
            continue
        # Of the candidate the order alone counts, with NaN as the last.
        r, c = r[known], ranks(np.where(np.isnan(c), -np.inf, c)[known])
        rho.append(spearman(c, r))
        top.append(float(r.max() - r[np.argmax(c)] < CLEAR * unit))
        gains = r - r.min()
        got += dcg(gains, c)
        best += dcg(gains, r)
        lead = (r[:, None] - r[None, :]) / unit
        clear = lead >= CLEAR
        sign = np.sign(c[:, None] - c[None, :])
        kept += float((lead * sign)[clear].sum())
        weight += float(lead[clear].sum())
        flipped = max(flipped, float(lead[clear & (sign <= 0)].max(initial=0.0)))
    values = {
        "spearman_mean": float(np.mean(rho)) if rho else float("nan"),
        "order_kept": kept / weight if weight else 1.0,
        "flipped_lead_max": flipped,
        "top1_agreement": float(np.mean(top)) if top else float("nan"),
        "ndcg10_agreement": got / best if best else 1.0,
    }
    if weight:
        return values, {}
    return values, {"order_kept": "no lead of the reference's is clear"}


def graded(
    rankings: list[dict[str, Any]], reference: list[Array], candidate: list[Array]
) -> dict[str, float]:
    """Return nDCG@10 by the data's own grades, of the rankings that have them.

    ``ndcg10_labels_loss`` is the mean loss less two standard errors: what is lost for
    sure. It is left out where too few rankings are graded to tell.
    """
    pairs = [
        [ndcg(np.asarray(ranking["relevance"], dtype=float), x) for x in (c, r)]
        for ranking, r, c in zip(rankings, reference, candidate, strict=True)
        if ranking.get("relevance")
    ]
    if not pairs:
        return {}
    ours, theirs = np.asarray(pairs).T
    values = {
        "ndcg10_labels_candidate": float(ours.mean()),
        "ndcg10_labels_reference": float(theirs.mean()),
    }
    if len(pairs) >= _GRADED:
        loss = theirs - ours
        error = float(loss.std(ddof=1)) / np.sqrt(len(loss))
        values["ndcg10_labels_loss"] = max(0.0, float(loss.mean() - 2 * error))
    return values
