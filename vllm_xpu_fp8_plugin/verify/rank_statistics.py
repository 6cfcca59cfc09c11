# SPDX-License-Identifier: Apache-2.0
"""Rank statistics in numpy, which is where vLLM is; scipy need not be."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def ranks(values: Array) -> Array:
    """Return the rank of each value, from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Array = ends - (counts - 1) / 2
    return means[inverse]


def spearman(a: Array, b: Array) -> float:
    """Return Spearman's rho, Pearson's coefficient of the ranks.

    Where all values of one side are equal there is no order to agree with: 0, or 1
    if that holds for both.
    """
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    if not x.any() or not y.any():
        return float(not x.any() and not y.any())
    return float((x @ y) / np.sqrt((x @ x) * (y @ y)))


def dcg(gains: Array, scores: Array, k: int = 10) -> float:
    """Return the discounted cumulative gain of the first `k` by their scores.

    Järvelin and Kekäläinen (2002), with the gain itself in the numerator and a
    discount of log2(position + 1), as in scikit-learn. Documents with equal scores
    count in their given order.
    """
    order = np.argsort(-scores, kind="stable")[:k]
    return float(gains[order] @ (1 / np.log2(np.arange(2, len(order) + 2))))


def ndcg(gains: Array, scores: Array, k: int = 10) -> float:
    """Return `dcg` over the greatest there can be; gains of zero throughout give 1."""
    best = dcg(gains, gains, k)
    return dcg(gains, scores, k) / best if best else 1.0


def longest_run(tokens: list[int]) -> int:
    """Return the length of the longest run of one token."""
    longest = run = 0
    previous = None
    for token in tokens:
        run = run + 1 if token == previous else 1
        longest, previous = max(longest, run), token
    return longest
