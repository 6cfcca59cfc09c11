# SPDX-License-Identifier: Apache-2.0
"""The space and the unit in which answers are compared.

A change of 0.07 is much for probabilities and nothing for logits between -11 and 11,
so no number is a limit for both. Rounding errors add to what a head puts out before
its activation, and there they are of one size wherever the answer lies; so answers
go back there, and are then measured in spreads of the reference's own.
"""

from dataclasses import dataclass

import numpy as np

from vllm_xpu_fp8_plugin.verify.rank_statistics import Array

AS_GIVEN, LOG_ODDS, LOG_PROBABILITIES = "as given", "log-odds", "log-probabilities"

# What is nearer to 0, or for odds to 1, counts as lying there. Steps of float32 below
# 1 are 6e-8; of bfloat16, for which a head can be asked, 0.004.
_ENDS = {LOG_ODDS: (1e-6, 1e-2), LOG_PROBABILITIES: (1e-12, 1e-6)}
# Of answers that hardly differ, a tenth of their size stands for the spread, and half
# a nat where they are probabilities: a model that is as unsure as that decides nothing.
_LEAST_SPREAD = 0.1
_LEAST_NATS = 0.5


@dataclass(frozen=True)
class Space:
    """Where answers are compared.

    Attributes:
        name: `AS_GIVEN`, `LOG_ODDS` or `LOG_PROBABILITIES`.
        end: The least probability that is told from 0.
        least: The least spread that counts as one.

    """

    name: str
    end: float
    least: float


def space(reference: Array) -> Space:
    """Return the space for answers like these, ``[num_answers, width]``.

    Rows that sum to 1 come from a softmax, other numbers between 0 and 1 count as
    from a sigmoid, and what lies outside as it is.
    """
    finite = finite_rows(reference)
    if not finite.size or finite.min() < 0 or finite.max() > 1:
        return Space(AS_GIVEN, end=0.0, least=0.0)
    one = finite.shape[1] > 1 and np.abs(finite.sum(axis=1) - 1).max() < 0.01
    name = LOG_PROBABILITIES if one else LOG_ODDS
    return Space(name, _ENDS[name][_is_half(finite)], _LEAST_NATS)


def _is_half(values: Array) -> bool:
    """Return whether all values fit 16 bits, as a head in half precision gives them."""
    bits = values.astype(np.float32).view(np.uint32)
    bfloat16 = (bits & 0xFFFF) == 0
    return bool(bfloat16.all() or (values.astype(np.float16) == values).all())


def transform(answers: Array, to: Space) -> Array:
    """Return answers ``[num_answers, width]`` in a space; rows not finite are NaN.

    Log-probabilities are those over their mean: logits but for a constant a row.
    """
    finite = np.isfinite(answers).all(axis=1, keepdims=True)
    answers = np.where(finite, answers, np.nan)
    if to.name == LOG_ODDS:
        p = np.clip(answers, to.end, 1 - to.end)
        odds: Array = np.log(p / (1 - p))
        return odds
    if to.name == LOG_PROBABILITIES:
        logs = np.log(np.clip(answers, to.end, None))
        centred: Array = logs - logs.mean(axis=1, keepdims=True)
        return centred
    return answers


def spread(*groups: Array) -> float:
    """Return the greatest standard deviation of some groups of answers.

    A group is ``[num_answers, width]``, and each column deviates from its own mean.
    Where nothing deviates by a tenth of the answers' size, the result is that tenth:
    rounding is a share of the size, and small differences are not its measure.
    """
    found = []
    for group in groups:
        finite = finite_rows(group)
        if len(finite):
            size = np.sqrt((finite**2).mean())
            deviation = np.sqrt(((finite - finite.mean(axis=0)) ** 2).mean())
            found.append(max(deviation, _LEAST_SPREAD * size))
    return float(max(found, default=np.nan)) or 1.0


def finite_rows(answers: Array) -> Array:
    """Return the rows without NaN or infinity."""
    rows: Array = answers[np.isfinite(answers).all(axis=1)]
    return rows


def response_error(reference: list[Array], candidate: list[Array]) -> float:
    """Return how far the candidate's answers are from following the reference's 1:1.

    It is ``|slope - 1|`` less two standard errors of the slope of a line through the
    candidate's answers over the reference's: 0 for answers that are right but for
    noise, 1 for those that do not depend on the input, more for those turned round.
    Groups ``[num_answers, width]`` have each a mean of their own.
    """
    parts = []
    for r, c in zip(reference, candidate, strict=True):
        kept = np.isfinite(r).all(axis=1) & np.isfinite(c).all(axis=1)
        if kept.any():
            parts.append([x[kept] - x[kept].mean(axis=0) for x in (r, c)])
    if not parts:
        return float("nan")
    x, y = (np.concatenate([p[i].ravel() for p in parts]) for i in (0, 1))
    square = float(x @ x)
    if square == 0:
        # Nothing to follow; whether all are equal is another measure.
        return 0.0
    slope = float(x @ y) / square
    residual = y - slope * x
    error = np.sqrt(float(residual @ residual) / max(1, len(x) - 2) / square)
    return max(0.0, abs(slope - 1) - 2 * float(error))
