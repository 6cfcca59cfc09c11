# SPDX-License-Identifier: Apache-2.0
"""Made-up answers of an arm, and what faults make of them."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.verify import results

Result = dict[str, Any]


def make(task: str) -> Result:
    return results.generation() if task == "generate" else results.pooling(task)


def rounded(arm: Result) -> Result:
    """Return a sound candidate's result: the reference's, a little off."""
    arm = copy.deepcopy(arm)
    if "forced" in arm:
        arm["forced"] = [[x - 0.001 for x in row] for row in arm["forced"]]
        return arm
    for name in ("items", "lengths", "probes", "alone"):
        arm[name] = [[x * 1.001 for x in row] for row in arm[name]]
    return arm


def nan_at_a_remainder(arm: Result) -> None:
    for ids, row in zip(arm["plan"]["lengths"], arm["lengths"], strict=True):
        if len(ids) % 64 == 5:
            if isinstance(row, dict):
                row["logprobs"][0] = math.nan
            else:
                row[0] = math.nan


def one_score(arm: Result) -> None:
    for name in ("items", "lengths", "probes", "alone"):
        arm[name] = [[0.3] * len(x) for x in arm[name]]


def ignored_input(arm: Result) -> None:
    rng = np.random.default_rng(1)
    for name in ("items", "lengths", "probes"):
        shape = np.shape(arm[name])
        arm[name] = (0.2 + rng.normal(scale=1e-5, size=shape)).tolist()
    arm["alone"] = [arm["items"][i] for i in arm["plan"]["alone"]]


def twice_as_long(arm: Result) -> None:
    for name in ("items", "lengths", "alone"):
        arm[name] = [[2.1 * x for x in row] for row in arm[name]]


def one_vector_shorter(arm: Result) -> None:
    arm["lengths"][7] = [0.4 * x for x in arm["lengths"][7]]


def empty_sweep(arm: Result) -> None:
    for row in arm["lengths"]:
        row.update(tokens=[], logprobs=[], top=[])


def one_gap(arm: Result) -> None:
    arm["items"][1]["logprobs"][5] -= 2


def half(arm: Result) -> None:
    arm["items"] = [[0.5] if i % 3 else x for i, x in enumerate(arm["items"])]


def random_order(arm: Result) -> None:
    arm["items"] = np.random.default_rng(1).permutation(arm["items"]).tolist()


def others_change_a_row(arm: Result) -> None:
    arm["alone"][0] = [-x + 0.1 for x in arm["alone"][0]]


def change_text(arm: Result, change: Callable[[list[int]], list[int]]) -> None:
    for row, own in zip(arm["items"], arm["own"], strict=True):
        row["tokens"] = change(row["tokens"])
        for values in (row["logprobs"], row["top"], own):
            del values[len(row["tokens"]) :]


def twice_each(arm: Result) -> None:
    change_text(arm, lambda t: [x for x in t[: len(t) // 2] for _ in "12"])


def one_token(arm: Result) -> None:
    change_text(arm, lambda t: [t[0], *[0] * (len(t) - 1)])


def nothing(arm: Result) -> None:
    change_text(arm, lambda t: [])


def another_cache(arm: Result) -> None:
    for row in arm["items"]:
        row["logprobs"] = [x - 0.4 for x in row["logprobs"]]


def alone_otherwise(arm: Result) -> None:
    arm["alone"][0]["tokens"][3] = 200
