# SPDX-License-Identifier: Apache-2.0
"""How well `verify` tells faults from sound FP8: some 400 faults, 70 sound runs.

``python -m tests.verify.detection`` runs them, writes the table between the marks in
docs/verify.md and the figure docs/images/detection.png.
"""

import re
import sys
import textwrap
from collections import defaultdict

import numpy as np

from tests.real_models import ROOT
from tests.verify import sound_models
from tests.verify.environment import set_up
from tests.verify.outcomes import ALIKE, TASKS, Outcome, engines, sound, spoilt

# In the table: bold what raises an alarm, in brackets what passes.
_MARKS = {"alarm": "**{}**", "drift": "{}", "pass": "({})", "hidden": "[{}]"}


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
        f"limit than {ALIKE:g} times what FP8's rounding does by itself.",
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
