# SPDX-License-Identifier: Apache-2.0
"""Decides from two arms' results, and makes the report of it."""

import math
from collections.abc import Mapping
from typing import Any

from vllm_xpu_fp8_plugin import __version__
from vllm_xpu_fp8_plugin.verify import generation, plan, pooling
from vllm_xpu_fp8_plugin.verify.thresholds import ALARM, for_task

PASS, DRIFT = "pass", "drift"

# Counted up when a field changes its meaning or goes away; new ones may come.
SCHEMA = 1


def judge(
    reference: dict[str, Any],
    candidate: dict[str, Any],
    limits: Mapping[str, float] | None = None,
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
    checks = []
    for threshold in for_task(task):
        if threshold.name not in values:
            # The data has no rankings, or no relevance grades.
            continue
        value = values[threshold.name]
        limit = (limits or {}).get(threshold.name, threshold.limit)
        checks.append(
            {
                "name": threshold.name,
                "kind": threshold.kind,
                "value": _strict(value),
                "limit": _strict(limit),
                "bound": "at least" if threshold.at_least else "at most",
                "passed": threshold.passes(value, limit),
                "meaning": threshold.meaning,
                "remark": remarks.get(threshold.name, ""),
            }
        )
    failed = [c for c in checks if not c["passed"]]
    alarms = [c["name"] for c in failed if c["kind"] == ALARM]
    verdict = ALARM if alarms else DRIFT if failed else PASS
    return {
        "schema": SCHEMA,
        "plugin_version": __version__,
        "verdict": verdict,
        "task": task,
        "alarms": alarms,
        "checks": checks,
        "measures": {name: _strict(value) for name, value in values.items()},
        "items": len(reference["plan"]["items"]),
        "texts_cut": reference["plan"].get("texts_cut", 0),
        "arms": {"reference": _arm(reference), "candidate": _arm(candidate)},
        "speed": _speed(reference, candidate) if verdict == PASS else None,
        "pairs": {k: [_strict(x) for x in v] for k, v in pairs.items()},
    }


def _arm(result: dict[str, Any]) -> dict[str, Any]:
    left_out = {"plan", "items", "lengths", "alone", "own", "forced", "speed"}
    return {k: v for k, v in result.items() if k not in left_out}


def _speed(reference: dict[str, Any], candidate: dict[str, Any]) -> dict[str, Any]:
    """Return both arms' speed; wrong answers have none."""
    return {
        "emulated": candidate["emulated"] or reference["emulated"],
        "reference": reference["speed"],
        "candidate": candidate["speed"],
    }


def _strict(value: float) -> float | None:
    """Return None for what strict JSON has no word for."""
    return value if math.isfinite(value) else None
