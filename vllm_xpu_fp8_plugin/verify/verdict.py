# SPDX-License-Identifier: Apache-2.0
"""Decides from two arms' results, and makes the report of it."""

import math
from collections.abc import Mapping
from typing import Any

from vllm_xpu_fp8_plugin import __version__
from vllm_xpu_fp8_plugin.verify import generation, plan, pooling
from vllm_xpu_fp8_plugin.verify.limits import for_task
from vllm_xpu_fp8_plugin.verify.threshold import ALARM, DRIFT, PASS, Limits

# Counted up when a field changes its meaning or goes away; new ones may come.
SCHEMA = 2

# What an arm answers.
_ANSWERS = ("items", "lengths", "probes", "alone", "own", "forced")


def judge(
    reference: dict[str, Any],
    candidate: dict[str, Any],
    limits: Mapping[str, Limits] | None = None,
) -> dict[str, Any]:
    """Return the report on two arms that ran the same plan.

    Args:
        reference: Result of the arm without FP8.
        candidate: Result of the arm with FP8.
        limits: Limits in place of the default ones, by measure.

    Returns:
        What docs/verify.md describes as report.json.

    """
    task = reference["plan"]["task"]
    compare = generation.compare if task == plan.GENERATE else pooling.compare
    values, remarks, pairs = compare(reference, candidate)
    _add_changes(reference, candidate, values, remarks)
    checks = []
    for threshold in for_task(task):
        if threshold.name not in values:
            # The data has no rankings, or no relevance grades.
            continue
        value = values[threshold.name]
        if given := (limits or {}).get(threshold.name):
            threshold = threshold.moved(given)
        checks.append(
            {
                "name": threshold.name,
                "value": _strict(value),
                "verdict": threshold.judge(value),
                "drift": _strict(threshold.drift),
                "alarm": _strict(threshold.alarm),
                "bound": "at least" if threshold.at_least else "at most",
                "meaning": threshold.meaning,
                "remark": remarks.get(threshold.name, ""),
            }
        )
    verdicts = [c["verdict"] for c in checks]
    alarms = [c["name"] for c in checks if c["verdict"] == ALARM]
    verdict = ALARM if alarms else DRIFT if DRIFT in verdicts else PASS
    return {
        "schema": SCHEMA,
        "plugin_version": __version__,
        "verdict": verdict,
        "task": task,
        "alarms": alarms,
        "checks": checks,
        "measures": {name: _strict(value) for name, value in values.items()},
        "unit": _unit(task, remarks),
        "items": len(reference["plan"]["items"]),
        "texts_cut": reference["plan"].get("texts_cut", 0),
        "arms": {"reference": _arm(reference), "candidate": _arm(candidate)},
        "speed": _speed(reference, candidate) if verdict == PASS else None,
        "pairs": {k: [_strict(x) for x in v] for k, v in pairs.items()},
    }


def _add_changes(
    reference: dict[str, Any],
    candidate: dict[str, Any],
    values: dict[str, float],
    remarks: dict[str, str],
) -> None:
    """Add whether FP8 changed anything, and how much of the model is FP8."""
    same = all(reference.get(x) == candidate.get(x) for x in _ANSWERS)
    counts = candidate.get("fp8")
    if counts is None:
        values["identical"] = float(same)
        return
    fp8 = counts["layers_fp8"] + counts["caches_fp8"]
    asked = str(candidate["kv_cache_dtype"]).startswith("fp8")
    if counts["layers_other"] and not (fp8 or asked):
        # Of int4 and its like nobody has asked for FP8, and against the values that
        # the codes stand for nothing need change.
        return
    values |= {"identical": float(same), "fp8_layers": float(fp8)}
    remarks["fp8_layers"] = described(counts)
    if same:
        remarks["identical"] = f"nothing has changed; {described(counts)}"


def described(counts: dict[str, int]) -> str:
    """Say how much of a model is FP8, or quantised otherwise."""
    said = f"FP8: {counts['layers_fp8']} of {counts['layers']} linear layers, "
    if counts["layers_other"]:
        # How many weights a packed number holds is the format's own affair.
        said += f"{counts['layers_other']} quantised to another format"
    else:
        fp8, weights = (_millions(counts[x]) for x in ("weights_fp8", "weights"))
        said += f"{fp8} of {weights} weights"
    if counts["caches"]:
        said += f", {counts['caches_fp8']} of {counts['caches']} KV caches"
    return said


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else str(count)


def _unit(task: str, remarks: dict[str, str]) -> str:
    """Say what drift is measured in."""
    if task == plan.GENERATE:
        return "nats"
    if task == plan.EMBED:
        return "spreads of the reference's cosines, or cosine distance"
    return f"spreads of the reference ({remarks['spread']})"


def _arm(result: dict[str, Any]) -> dict[str, Any]:
    left_out = {"plan", "speed", *_ANSWERS}
    return {k: v for k, v in result.items() if k not in left_out}


def _speed(reference: dict[str, Any], candidate: dict[str, Any]) -> dict[str, Any]:
    """Return both arms' speed; wrong answers have none."""
    return {
        "emulated": candidate["emulated"] or reference["emulated"],
        "reference": reference["speed"],
        "candidate": candidate["speed"],
    }


def _strict(value: float | None) -> float | None:
    """Return None for what strict JSON has no word for."""
    return value if value is not None and math.isfinite(value) else None
