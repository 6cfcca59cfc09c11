# SPDX-License-Identifier: Apache-2.0
"""The report for people: a table, what is wrong in words, and a picture."""

import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from vllm_xpu_fp8_plugin.check.summary import PASS
from vllm_xpu_fp8_plugin.terminal import on_a_line
from vllm_xpu_fp8_plugin.verify.display import in_root

_SHOWN_FAULTS = 3
_SHOWN_LAYERS = 3
_NOT_COMPILED = {
    "reference": "not compiled code",
    "missing": "not runnable here",
}


def show(report: dict[str, Any], console: Console) -> None:
    """Print what was checked, the table, and each fault."""
    with console.capture() as captured:
        _show(report, console)
    # rich fills up the lines of a table with spaces.
    lines = (line.rstrip(" ") for line in captured.get().splitlines())
    print("\n".join(lines))


def _show(report: dict[str, Any], console: Console) -> None:
    if report["model"]:
        console.print(f"Model:    {_plain(Path(report['model']).name)}")
    device, kernels = _plain(report["device"]), _plain(report["kernels"])
    console.print(f"Device:   {device}")
    console.print(f"Kernels:  vllm-xpu-kernels {kernels}, torch {report['torch']}")
    console.print()
    console.print(_table(report["ops"]))
    for op in report["ops"]:
        if op["faults"]:
            _show_faults(op, console)
    console.print()
    _show_rest(report, console)
    wrong = [op["op"] for op in report["ops"] if op["faults"]]
    made = sum(op["made"] for op in report["ops"])
    counted = f"{report['calls']} calls, {made} with the values that were tried"
    if report["verdict"] == PASS:
        said = f"PASS: {len(report['ops'])} ops compute what they should ({counted})."
        console.print(said, style="bold green")
    else:
        said = f"FAULTS in {len(wrong)} of {len(report['ops'])} ops ({counted})."
        console.print(said, style="bold red")


def _table(ops: list[dict[str, Any]]) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
    table.add_column("op", overflow="fold", ratio=1)
    table.add_column("calls", justify="right")
    table.add_column("ulp", justify="right")
    table.add_column("result", no_wrap=True)
    for op in ops:
        if op["faults"]:
            result = (
                f"[red]{', '.join(dict.fromkeys(f['kind'] for f in op['faults']))}[/]"
            )
        elif not op["made"]:
            result = "refused"
        else:
            result = "ok"
        if op["runs_as"] != "compiled":
            result += f", {_NOT_COMPILED.get(op['runs_as'], op['runs_as'])}"
        ulps = f"{op['ulps']:.2g}" if op["made"] else ""
        table.add_row(op["op"], str(op["made"]), ulps, result)
    return table


def _show_faults(op: dict[str, Any], console: Console) -> None:
    console.print()
    console.print(f"{op['op']}", style="bold")
    for fault in op["faults"][:_SHOWN_FAULTS]:
        console.print(Padding(_plain(fault["words"]), (0, 0, 0, 2)), style="red")
        console.print(Padding(f"in {_plain(fault['call'])}", (0, 0, 0, 4)))
        if fault["variant"] != "as given":
            console.print(Padding(f"with {fault['variant']} values", (0, 0, 0, 4)))
        if fault["layers"]:
            layers = grouped(fault["layers"])
            shown = ", ".join(layers[:_SHOWN_LAYERS])
            more = len(layers) - _SHOWN_LAYERS
            shown += f" and {more} more" if more > 0 else ""
            console.print(Padding(f"of {_plain(shown)}", (0, 0, 0, 4)))
    more = len(op["faults"]) - _SHOWN_FAULTS
    if more > 0:
        console.print(Padding(f"and {more} more, in report.json", (0, 0, 0, 2)))


def _show_rest(report: dict[str, Any], console: Console) -> None:
    for op in report["ops"]:
        if op["refused"] and (report["model"] or not op["made"]):
            said = f"{op['op']} refused {op['refused']} calls: {op['refusals'][0]}"
            console.print(_plain(said), style="yellow")
    for what, names in (
        ("No oracle for", report["not_checked"]),
        ("Not called", report["without_calls"]),
    ):
        if names:
            console.print(f"{what}: {', '.join(names)}", style="dim")


def grouped(layers: list[str]) -> list[str]:
    """Return layers, those that differ in a number as one with how many they are."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(re.sub(r"\b\d+\b", "*", layer), []).append(layer)
    return [
        names[0] if len(names) == 1 else f"{pattern} ({len(names)})"
        for pattern, names in groups.items()
    ]


def _plain(text: str) -> str:
    """Return text of a model such that neither rich nor a terminal obeys it."""
    return escape(on_a_line(str(text)))


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture: each op's largest error, in units of the last place.

    Raises:
        ImportError: matplotlib is not installed.

    """
    with in_root():
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt

    ops = [op for op in reversed(report["ops"]) if op["made"] or op["faults"]]
    figure, axes = plt.subplots(
        figsize=(8, 1.5 + 0.18 * len(ops)), dpi=150, layout="constrained"
    )
    for place, op in enumerate(ops):
        wrong = bool(op["faults"])
        compiled = op["runs_as"] == "compiled"
        axes.barh(
            place,
            max(op["ulps"], 0.02),
            color="black" if wrong else ("0.6" if compiled else "white"),
            edgecolor="black",
            linewidth=0.6,
            hatch="" if compiled else "////",
        )
        if wrong:
            axes.text(max(op["ulps"], 0.02), place, " wrong", va="center", fontsize=6)
    axes.set_yticks(range(len(ops)), [op["op"] for op in ops], fontsize=6)
    axes.set_xlabel("largest error of what is right, units of the last place")
    axes.axvline(0.5, color="0.3", linewidth=0.8, linestyle=":")
    axes.margins(y=0.01)
    name = Path(str(report["model"])).name if report["model"] else "catalogue"
    title = f"vllm-xpu-kernels {report['kernels']}, {on_a_line(name)}"
    title += f": {report['verdict']} (hatched: not compiled code; dotted: one rounding)"
    figure.suptitle(title, fontsize=8, parse_math=False)
    figure.savefig(path)
    plt.close(figure)
