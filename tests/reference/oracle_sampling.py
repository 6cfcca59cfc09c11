# SPDX-License-Identifier: Apache-2.0
"""Top-k and top-p from their definitions, in float64, one row at a time."""

import math


def kept_tokens(logits: list[float], k: int | None, p: float | None) -> set[int]:
    """Return the tokens that may be sampled.

    The `k` most likely ones, with ties; of these the fewest most likely ones whose
    probabilities, among the k, add up to `p`, with ties.
    """
    order = sorted(range(len(logits)), key=lambda t: -logits[t])
    if k is not None and k < len(order):
        least = logits[order[k - 1]]
        order = [t for t in order if logits[t] >= least]
    if p is None or p >= 1:
        return set(order)
    weights = [math.exp(logits[t] - logits[order[0]]) for t in order]
    total, needed = 0.0, 0
    for weight in weights:
        needed += 1
        total += weight / math.fsum(weights)
        if total >= p:
            break
    least = logits[order[needed - 1]]
    return {t for t in order if logits[t] >= least}


def log_probabilities(logits: list[float], kept: set[int]) -> list[float]:
    """Return each token's, of the tokens in `kept`; -inf of the others."""
    top = max(logits[t] for t in kept)
    total = math.fsum(math.exp(logits[t] - top) for t in kept)
    return [
        logits[t] - top - math.log(total) if t in kept else -math.inf
        for t in range(len(logits))
    ]
