# SPDX-License-Identifier: Apache-2.0
"""The length sweep: what drifts at which lengths, and what these have in common."""

from typing import Any

import numpy as np

from vllm_xpu_fp8_plugin.verify import plan
from vllm_xpu_fp8_plugin.verify.rank_statistics import Array

# The drift beyond which a length counts as off: spreads, cosine distance or nats.
OFF = {plan.SCORE: 0.4, plan.CLASSIFY: 1.0, plan.EMBED: 0.02, plan.GENERATE: 1.0}


def sweep(
    work: dict[str, Any],
    drift: Array,
    values: dict[str, float],
    remarks: dict[str, str],
) -> None:
    """Add the measures of the sweep.

    Args:
        work: The plan.
        drift: Of each length ``[num_lengths]``; NaN is left to ``non_finite``.
        values: Gets ``length_drift_max``, ``length_drift_mean``, ``lengths_off``.
        remarks: Gets the worst length, and what the lengths that are off share.

    """
    sizes = [len(ids) for ids in work["lengths"]]
    known = ~np.isnan(drift)
    if not known.any():
        values |= dict.fromkeys(("length_drift_max", "length_drift_mean"), np.nan)
        values["lengths_off"] = np.nan
        return
    values["length_drift_max"] = float(drift[known].max())
    values["length_drift_mean"] = float(drift[known].mean())
    worst = sizes[int(np.nanargmax(drift))]
    remarks["length_drift_max"] = f"at {worst} token{'s' * (worst > 1)}"
    off = known & (drift > OFF[work["task"]])
    values["lengths_off"] = float(off.sum() / known.sum())
    if off.any():
        found = [n for n, x in zip(sizes, off, strict=True) if x]
        remarks["lengths_off"] = describe_lengths(found, work)


def describe_lengths(found: list[int], work: dict[str, Any]) -> str:
    """Say which lengths of the sweep these are, and what they have in common."""
    if not found:
        return "at none of the lengths of the sweep"
    page = work["page"]
    sizes = [len(ids) for ids in work["lengths"]]
    shown = ", ".join(map(str, found[:6])) + (", ..." if len(found) > 6 else "")
    remainders = {n % page for n in found}
    if len(found) > 1 and len(remainders) == 1:
        return f"at lengths {shown}: length % {page} == {remainders.pop()}"
    if len(found) > 1 and [n for n in sizes if n >= min(found)] == found:
        return f"at all lengths from {min(found)} on"
    return f"at {shown} tokens"
