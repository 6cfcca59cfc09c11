# SPDX-License-Identifier: Apache-2.0
"""How well `verify` tells faults from sound FP8: some 400 faults, 70 sound runs.

``python -m tests.verify.detection`` runs them, writes the table between the marks in
docs/verify.md and the figure docs/images/detection.png. `changes` and `text_changes`
spoil the answers of a sound arm, `engine_faults` the engine that answers.
"""

import copy
import functools
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tests.real_models import ROOT
from tests.verify import (
    changes,
    engine_faults,
    saved_arms,
    sound_models,
    text_changes,
    vector_changes,
)
from tests.verify.environment import set_up
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
# In the table: bold what raises an alarm, in brackets what passes.
_MARKS = {"alarm": "**{}**", "drift": "{}", "pass": "({})", "hidden": "[{}]"}
# A fault that moves no measure nearer to its limit than this times what rounding
# does is hidden by it.
_ALIKE = 1.5
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
        hidden = self.margin <= _ALIKE * sound_margin(self.task)
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


def table(faults: list[Outcome]) -> str:
    """Return the table of docs/verify.md: a row for each kind and place."""
    rows: dict[tuple[str, str, bool], dict[str, list[str]]] = defaultdict(dict)
    for o in faults:
        kind, place, strength = [*o.fault.split(", ", 2), ""][:3]
        strength = re.sub(r"(, )?(all of (it|them)|bit by bit)$", "", strength)
        plain = "not seen" if o.verdict == "pass" else "seen"
        shown = _MARKS[o.shown].format(strength or plain)
        row = rows[kind, place, o.engine]
        row.setdefault(o.task, []).append(shown)
    lines = [
        f"| what is wrong | where | put into | {' | '.join(TASKS)} |",
        "|---" * (3 + len(TASKS)) + "|",
    ]
    # One kind after the other, in the order in which they are listed.
    kinds = list(dict.fromkeys(kind for kind, _, _ in rows))
    for (kind, place, engine), cells in sorted(
        rows.items(), key=lambda item: (kinds.index(item[0][0]), item[0][2])
    ):
        shown = [", ".join(cells.get(task, [])) for task in TASKS]
        into = "engine" if engine else "answers"
        lines.append(f"| {kind} | {place} | {into} | {' | '.join(shown)} |")
    counts = []
    for task in TASKS:
        own = [o for o in faults if o.task == task]
        counts.append(f"{sum(o.verdict != 'pass' for o in own)} of {len(own)}")
    return "\n".join([*lines, f"| all | | | {' | '.join(counts)} |"])


def draw(faults: list[Outcome], sound_runs: list[Outcome]) -> None:
    """Write the figure: what is seen, and what is a false alarm, by width of limits."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.8), dpi=150, layout="constrained"
    )
    factors = np.geomspace(0.02, 50, 400)
    margins = np.array([o.margin for o in sound_runs])
    false = [(margins > f).mean() for f in factors]
    styles = dict(zip(TASKS, ("-", "--", ":", "-."), strict=True))
    for task, style in styles.items():
        own = np.array([o.margin for o in faults if o.task == task])
        seen = [(own > f).mean() for f in factors]
        left.plot(false, seen, color="black", linestyle=style, linewidth=1, label=task)
        left.scatter(
            [(margins > 1).mean()], [(own > 1).mean()], s=25, color="black", zorder=3
        )
        right.plot(factors, seen, color="black", linestyle=style, linewidth=1)
    right.plot(factors, false, color="0.5", linewidth=2, label="sound runs")
    right.axvline(1, color="0.7", linewidth=1)
    right.set_xscale("log")
    right.legend(frameon=False)
    left.legend(frameon=False, loc="lower right")
    left.set_xlabel(f"share of {len(sound_runs)} sound runs that fail")
    left.set_ylabel(f"share of {len(faults)} faults that are seen")
    left.set_title("all limits wider or narrower; dots: as they are")
    left.set_ylim(0, 1.02)
    right.set_xlabel("factor on all limits")
    right.set_ylabel("share that does not pass")
    right.set_ylim(-0.02, 1.02)
    right.set_title("margin of the limits")
    figure.suptitle("verify: faults seen, false alarms", fontweight="bold")
    figure.savefig(ROOT / "docs" / "images" / "detection.png")
    plt.close(figure)


def _between(text: str, mark: str, new: str) -> str:
    pattern = rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)"
    return re.sub(pattern, lambda m: m[1] + new + m[2], text, flags=re.DOTALL)


def _main(tasks: list[str]) -> None:
    faults = []
    for task in tasks or TASKS:
        for made in (spoilt(task), engines(task)):
            faults += made
            seen = sum(o.verdict != "pass" for o in made)
            print(f"{task}: {seen} of {len(made)} faults seen", flush=True)
            for o in made:
                print(f"  {o.verdict:6} {o.margin:8.3g}  {o.fault}  {o.failed[:3]}")
    if tasks:
        return
    runs = sound()
    for o in runs:
        if o.verdict != "pass":
            print(f"FALSE ALARM {o}")
    page = ROOT / "docs" / "verify.md"
    text = page.read_text()
    for mark, new in (
        ("detection", table(faults)),
        ("detection-summary", _summary(faults)),
        ("sound", sound_models.tables()[0]),
        ("sound-summary", _sound_summary(runs)),
    ):
        text = _between(text, mark, new)
    page.write_text(text)
    draw(faults, runs)
    print(_summary(faults), _sound_summary(runs), sep="\n")


def _summary(faults: list[Outcome]) -> str:
    seen = [o for o in faults if o.verdict != "pass"]
    alarms = sum(o.verdict == "alarm" for o in faults)
    engine = [o for o in faults if o.engine]
    hidden = sum(o.shown == "hidden" for o in faults)
    seen_in_engine = sum(o.verdict != "pass" for o in engine)
    return textwrap.fill(
        f"`python -m tests.verify.detection` puts {len(faults)} faults into sound "
        f"runs, {len(engine)} of them into the engine. {len(seen)} are seen, {alarms} "
        f"by an alarm; of those in the engine {seen_in_engine}. Of the "
        f"{len(faults) - len(seen)} that pass, {hidden} move no measure nearer to its "
        f"limit than {_ALIKE:g} times what FP8's rounding does by itself.",
        112,
    )


def _sound_summary(runs: list[Outcome]) -> str:
    failed = sum(o.verdict != "pass" for o in runs)
    models = len(sound_models.variations())
    worst = max(runs, key=lambda o: o.margin)
    return textwrap.fill(
        f"{len(runs)} runs of sound FP8, {failed} false alarms: {models} variations of "
        "eight real models and six with random weights. The nearest to a limit was "
        f"{worst.fault}, at {worst.margin:.2f} of it.",
        112,
    )


if __name__ == "__main__":
    set_up()
    _main(sys.argv[1:])
