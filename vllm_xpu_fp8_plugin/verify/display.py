# SPDX-License-Identifier: Apache-2.0
"""The report for people: a table, and a picture."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from vllm_xpu_fp8_plugin.terminal import on_a_line
from vllm_xpu_fp8_plugin.verify.threshold import ALARM, PASS
from vllm_xpu_fp8_plugin.verify.verdict import described

_STYLE = {"pass": "bold green", "drift": "bold yellow", "alarm": "bold red"}
_SAID = {
    "pass": "PASS: the candidate gives the reference's answers.",
    "drift": "DRIFT: the answers differ by more than FP8's rounding explains.",
    "alarm": "ALARM: the answers are wrong in a way that no rounding explains.",
}

# What says that nothing was verified; their remarks stand at the report's head.
_NOT_FP8 = ("identical", "fp8_layers")

# How many rankings are shown in the picture, those that changed most.
_SHOWN = 8


def show(report: dict[str, Any], console: Console) -> None:
    """Print the verdict and what it rests on."""
    name = Path(report["model"]).name if Path(report["model"]).is_dir() else None
    console.print(f"Model:      {_plain(name or report['model'])}")
    console.print(f"Task:       {report['task']}, {report['items']} items")
    if report["texts_cut"]:
        console.print(f"            cut to fit the model: {report['texts_cut']} texts")
    for role, a in report["arms"].items():
        device, dtype = _plain(a["device"]), _plain(a["dtype"])
        weights = _plain(a["quantization"] or "not quantised")
        cache = _plain(a["kv_cache_dtype"])
        console.print(f"{role.capitalize() + ':':11} {device}, {dtype},")
        console.print(f"            weights {weights}, KV cache {cache}")
        if role == "candidate" and "fp8" in a:
            console.print(Padding(_plain(described(a["fp8"])), (0, 0, 0, 12)))
    console.print(f"Drift in:   {report['unit']}")
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("allowed")
    table.add_column("")
    for check in report["checks"]:
        table.add_row(*_row(check))
    console.print()
    console.print(table)
    console.print()
    for check in report["checks"]:
        if check["verdict"] != PASS:
            console.print(f"{check['verdict'].upper()} {_sentence(check)}", style="red")
    verdict = report["verdict"]
    said = _SAID[verdict]
    if verdict == ALARM and set(report["alarms"]) <= set(_NOT_FP8):
        said = "ALARM: nothing was verified, since FP8 changed nothing."
    console.print(said, style=_STYLE[verdict])
    _show_speed(report, console)


def _plain(text: str) -> str:
    """Return a model's or a device's text such that neither rich nor a terminal obeys.

    A quantization is whatever a config.json says.
    """
    return escape(on_a_line(text))


def _row(check: dict[str, Any]) -> tuple[str, ...]:
    sign = "≥" if check["bound"] == "at least" else "≤"
    passed = check["verdict"] == PASS
    result = "ok" if passed else f"[red]{check['verdict']}[/]"
    if check["remark"] and check["name"] not in _NOT_FP8:
        result += f"  {check['remark']}"
    limit = _limit(check)
    shown = "any" if limit is None else f"{sign} {limit:g}"
    return check["name"], number(check["value"]), shown, result


def _limit(check: dict[str, Any]) -> float | None:
    """Return the limit that is missed, or the first that there is."""
    if check["drift"] is None or check["verdict"] == ALARM:
        limit: float | None = check["alarm"]
        return check["drift"] if limit is None else limit
    drift: float = check["drift"]
    return drift


def _sentence(check: dict[str, Any]) -> str:
    remark = f" ({check['remark']})" if check["remark"] else ""
    return (
        f"{check['name']}: {check['meaning']} is {number(check['value'])}{remark}, "
        f"allowed is {check['bound']} {number(_limit(check))}."
    )


def number(value: float | None) -> str:
    """Return a value at three significant digits or more, a whole one as such."""
    if value is None:
        return "not finite"
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.3g}"


def _show_speed(report: dict[str, Any], console: Console) -> None:
    if report["speed"] is None:
        console.print("No speed is shown: the speed of wrong answers is meaningless.")
        return
    speeds = {name: report["speed"][name] for name in ("reference", "candidate")}
    unit = speeds["candidate"]["unit"]
    console.print()
    if report["speed"]["emulated"]:
        console.print("Speed of the virtual XPU on this CPU; not an XPU's:")
    first = "first token" if unit == "tokens/s" else "one item"
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
    for name in ("speed", unit, f"{first}, ms", "peak memory, GiB"):
        table.add_column(name, justify="left" if name == "speed" else "right")
    for name, speed in speeds.items():
        table.add_row(
            name,
            f"{speed['throughput']:.1f}",
            f"{speed['latency_s'] * 1000:.1f}",
            f"{speed['peak_memory_bytes'] / 2**30:.2f}",
        )
    console.print(table)


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture: values against each other, rankings side by side.

    Legible in black and white: what differs has another shape, not only a colour.

    Raises:
        ImportError: matplotlib is not installed.

    """
    with in_root():
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt

    pairs = report["pairs"]
    both = [
        (x, y)
        for x, y in zip(pairs["reference"], pairs["candidate"], strict=True)
        if x is not None and y is not None
    ]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.8), dpi=150, layout="constrained"
    )
    what = {
        "score": "score",
        "embed": "cosine",
        "classify": "probability of the reference's label",
        "generate": "logprob of the reference's tokens",
    }[report["task"]]
    if both:
        x, y = zip(*both, strict=True)
        ends = min(*x, *y), max(*x, *y)
        left.plot(ends, ends, color="0.6", linewidth=1, zorder=1)
        left.scatter(x, y, s=9, facecolors="none", edgecolors="black", linewidths=0.6)
    lost = len(pairs["reference"]) - len(both)
    left.set_title(what + (f" ({lost} not finite, not shown)" if lost else ""))
    left.set_xlabel("reference")
    left.set_ylabel("candidate")
    left.set_aspect("equal", adjustable="datalim")
    if pairs.get("sizes"):
        _draw_rankings(right, pairs)
    else:
        right.hist([b - a for a, b in both], bins=40, color="0.4")
        right.set_title("candidate - reference")
        right.set_xlabel(what)
        right.set_ylabel("count")
    name = on_a_line(Path(str(report["model"])).name)
    title = f"{name}: {report['verdict']}"
    if report["alarms"]:
        title += f" ({', '.join(report['alarms'])})"
    # A name may hold dollar signs.
    figure.suptitle(title, fontweight="bold", parse_math=False)
    figure.savefig(path)
    plt.close(figure)


@contextlib.contextmanager
def in_root() -> Iterator[None]:
    """Go to another folder: matplotlib obeys the matplotlibrc of the current one."""
    try:
        before = os.getcwd()
    except FileNotFoundError:  # it was deleted
        before = "/"
    os.chdir("/")
    try:
        yield
    finally:
        os.chdir(before)


def _draw_rankings(axes: Any, pairs: dict[str, Any]) -> None:
    """Draw the rankings that changed most: a line from rank to rank a document."""
    start, rankings = 0, []
    for size in map(int, pairs["sizes"]):
        part = slice(start, start + size)
        rankings.append([_places(pairs[x][part]) for x in ("reference", "candidate")])
        start += size
    moved = [sum(abs(a - b) for a, b in zip(*r, strict=True)) for r in rankings]
    worst = sorted(range(len(rankings)), key=lambda i: -moved[i])[:_SHOWN]
    most = 0
    for column, i in enumerate(sorted(worst)):
        for a, b in zip(*rankings[i], strict=True):
            changed = a != b
            axes.plot(
                [column + 0.2, column + 0.8],
                [a, b],
                color="black" if changed else "0.7",
                linestyle="--" if changed else "-",
                marker="o",
                markersize=3,
                linewidth=1,
            )
            most = max(most, a, b)
    kept = sum(not m for m in moved)
    axes.set_title(f"ranks, reference → candidate ({kept} of {len(moved)} unchanged)")
    axes.set_xticks([c + 0.5 for c in range(len(worst))])
    axes.set_xticklabels([str(i + 1) for i in sorted(worst)])
    axes.set_xlabel("ranking, those that changed most; dashed: the rank changed")
    axes.set_ylim(min(most, 20) + 0.5, 0.5)
    axes.set_ylabel("rank")


def _places(scores: list[float | None]) -> list[int]:
    order = sorted(
        range(len(scores)),
        key=lambda i: (scores[i] is None, -(scores[i] or 0.0)),
    )
    places = [0] * len(scores)
    for place, i in enumerate(order, start=1):
        places[i] = place
    return places
