# SPDX-License-Identifier: Apache-2.0
"""What the results of all calls say, op by op, worst first."""

import itertools
import math
from typing import Any

PASS, FAULTS = "pass", "faults"
SCHEMA = 1

# Kinds of faults, worst first; see `replay`.
_ORDER = ("crash", "outside", "input", "unwritten", "values", "neighbours", "runs")


def report(
    model: str | None,
    engine: dict[str, Any] | None,
    machine: dict[str, Any],
    results: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the report, as it is written to report.json.

    Args:
        model: The model whose calls were recorded, or None.
        engine: What `record_arm` returned, or None.
        machine: What `replay_arm` returned.
        results: Its lines, one a call.

    """
    by_op: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_op.setdefault(result["op"], []).append(result)
    ops = [
        _of_op(n, r, machine["runs_as"].get(n, "compiled")) for n, r in by_op.items()
    ]
    ops.sort(key=lambda op: (_rank(op), -(op["ulps"] or 0.0), op["op"]))
    return {
        "schema_version": SCHEMA,
        "verdict": FAULTS if any(op["faults"] for op in ops) else PASS,
        "model": model,
        "engine": engine,
        **{k: machine[k] for k in ("device", "kernels", "torch", "not_checked")},
        "without_calls": [
            name
            for name in machine["ops"]
            if name not in by_op and name not in machine["not_checked"]
        ]
        if model is None
        else [],
        "calls": len(results),
        "ops": ops,
    }


def _of_op(name: str, results: list[dict[str, Any]], runs_as: str) -> dict[str, Any]:
    """Return what an op's calls gave, with each distinct fault once."""
    faults: dict[tuple[str, str], dict[str, Any]] = {}
    errors, refusals, made = [0.0], [], 0
    relative = [0.0]
    for result in results:
        for verdict in result["verdicts"]:
            if verdict["refused"]:
                refusals.append(verdict["refused"])
                continue
            made += 1
            if not verdict["faults"]:
                errors.append(verdict["ulps"])
                relative.append(verdict["relative"])
            for fault in verdict["faults"]:
                cause = fault["words"].split(":")[0]
                named = ":" in fault["words"] or fault["kind"] == "crash"
                key = fault["kind"], cause if named else result["call"]
                entry = faults.setdefault(
                    key,
                    {
                        **fault,
                        "call": result["call"],
                        "variant": verdict["variant"],
                        "layers": [],
                        "calls": 0,
                    },
                )
                entry["calls"] += 1
                entry["layers"] += [
                    x for x in result["layers"] if x not in entry["layers"]
                ]
    found = sorted(faults.values(), key=lambda f: _ORDER.index(f["kind"]))
    finite = [x for x in errors if math.isfinite(x)]
    return {
        "op": name,
        "runs_as": runs_as,
        "calls": len(results),
        "made": made,
        "refused": len(refusals),
        "refusals": sorted(set(refusals))[:3],
        "ulps": max(finite),
        "relative": max(x for x in relative if math.isfinite(x)),
        "types": sorted(
            set(itertools.chain.from_iterable(r["types"] for r in results))
        ),
        "faults": found,
    }


def _rank(op: dict[str, Any]) -> int:
    kinds = [_ORDER.index(f["kind"]) for f in op["faults"]]
    return min(kinds, default=len(_ORDER))
