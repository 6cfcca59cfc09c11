# SPDX-License-Identifier: Apache-2.0
"""Arms with a few answers."""

from typing import Any

from vllm_xpu_fp8_plugin.verify import pooling

Result = dict[str, Any]


def arm(task: str, items: list[list[float]], **more: Any) -> Result:
    width = len(items[0])
    work = {
        "task": task,
        "page": 64,
        "rankings": [],
        "items": [str(i) for i in range(len(items))],
        "lengths": [[0], [0] * 5, [0] * 69],
        "alone": [0, 2],
    }
    if task == "score":
        count = len(items) // 2
        work["rankings"] = [{"query": "q", "documents": ["a", "b"]}] * count
    made = {
        "plan": {**work, **more.pop("plan", {})},
        "items": items,
        "lengths": [[0.0] * width] * 3,
        "probes": [],
        "alone": [items[0], items[2]],
    }
    return {**made, **more}


def compared(reference: Result, candidate: Result) -> dict[str, float]:
    return pooling.compare(reference, candidate)[0]
