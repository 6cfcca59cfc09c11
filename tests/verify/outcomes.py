# SPDX-License-Identifier: Apache-2.0
"""Runs of `verify` of sound arms, and of arms with a fault, and what became of them.

`changes` and its like spoil the answers of a sound arm, `engine_faults` the engine that
answers.
"""

import copy
import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tests.verify import (
    changes,
    engine_faults,
    saved_arms,
    sound_models,
    text_changes,
    vector_changes,
)
from tests.verify.faulty_engine import Result
from vllm_xpu_fp8_plugin.verify.verdict import judge

TASKS = ("score", "embed", "classify", "generate")
# The model of each task; the decoder's engine is slow, and gets less to do.
_MODELS = {
    "score": "scorer, raw logits",
    "embed": "all-MiniLM-L6-v2",
    "classify": "rxnfp",
    "generate": "SmolLM2-135M, fp8 KV cache",
}
_AT_ONCE = 11
# A fault that moves no measure nearer to its limit than this times what rounding
# does is hidden by it.
ALIKE = 1.5
_FASTER = {
    "flags": [
        "--quantization",
        "fp8",
        "--kv-cache-dtype",
        "fp8",
        "--max-model-len",
        "270",
    ],
    "max_tokens": 16,
    "sweep": [1, 2, 5, 17, 40, 63, 64, 65, 69, 128, 133, 191, 197, 257, 261],
}
_CHANGES: dict[str, dict[str, changes.Change]] = {
    "score": changes.SCORE,
    "embed": vector_changes.EMBED,
    "classify": changes.CLASSIFY,
    "generate": text_changes.GENERATE,
}


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        task: Of the plan.
        fault: "kind, place, strength", or the sound model's name.
        engine: Whether an engine had the fault, rather than its answers.
        verdict: "pass", "drift" or "alarm".
        failed: The measures that said so.
        margin: By what factor all limits could be wider and still fail it, or narrower
            and still pass it; infinite where no limit allows any.

    """

    task: str
    fault: str
    engine: bool
    verdict: str
    failed: tuple[str, ...]
    margin: float

    @property
    def shown(self) -> str:
        """The mark in the table: "hidden" is what moves no measure beyond rounding."""
        if self.verdict != "pass":
            return self.verdict
        hidden = self.margin <= ALIKE * sound_margin(self.task)
        return "hidden" if hidden else "pass"


@functools.cache
def sound_margin(task: str) -> float:
    """Return the margin of a task's sound run, which faults are put into."""
    return outcome(task, "", True, judge(*arms(task))).margin


def outcome(task: str, fault: str, engine: bool, report: Result) -> Outcome:
    """Return a report's outcome."""
    checks = report["checks"]
    failed = tuple(c["name"] for c in checks if c["verdict"] != "pass")
    margin = max(map(_margin, checks))
    return Outcome(task, fault, engine, report["verdict"], failed, margin)


def _margin(check: Result) -> float:
    limit = check["alarm"] if check["drift"] is None else check["drift"]
    value = check["value"]
    if value is None:
        return np.inf
    if check["bound"] == "at least" and limit < 1:
        # From all, 1, downwards.
        value, limit = 1 - value, 1 - limit
    elif check["bound"] == "at least":
        return 0.0 if value >= limit else np.inf
    if check["name"] == "perplexity_ratio":
        value, limit = abs(np.log(value)), np.log(limit)
    if limit == 0:
        return 0.0 if value <= 0 else np.inf
    return float(max(0.0, value / limit))


@functools.cache
def arms(task: str) -> tuple[Result, Result]:
    """Return the reference and the sound candidate of a task's model."""
    return saved_arms.both(request(task))[0]


def request(task: str) -> Result:
    """Return what the model of a task is asked."""
    asked = sound_models.requests()[_MODELS[task]]
    if task != "generate":
        return asked
    data = {**asked["data"], "prompts": asked["data"]["prompts"][:5]}
    return {**asked, **_FASTER, "data": data}


def spoilt(task: str, names: Iterable[str] | None = None) -> list[Outcome]:
    """Return the outcomes of changes to a task's sound answers."""
    reference, sound = arms(task)
    found = []
    for name, change in _CHANGES[task].items():
        if names is None or name in names:
            arm = copy.deepcopy(sound)
            change(reference, arm, np.random.default_rng(1))
            if arm == sound:
                # The model takes no such length.
                continue
            found.append(outcome(task, name, False, judge(reference, arm)))
    return found


def engines(task: str) -> list[Outcome]:
    """Return the outcomes of faults in a task's engine."""
    reference, _ = arms(task)
    names = [*engine_faults.EVERY_MODEL]
    more: Result = {}
    if task == "generate":
        names += engine_faults.DECODERS
        more["kv_scales"] = True
    found = []
    for start in range(0, len(names), _AT_ONCE):
        some = tuple(names[start : start + _AT_ONCE])
        results = saved_arms.faulty(request(task), some, reference["plan"], **more)
        for name, arm in results.items():
            found.append(outcome(task, name, True, judge(reference, arm)))
    return found


def sound() -> list[Outcome]:
    """Return the outcomes of all sound runs."""
    return [
        outcome(report["task"], name, True, report)
        for name, (asked, seeds) in sound_models.variations().items()
        for report in sound_models.reports(asked, seeds)
    ]
