# SPDX-License-Identifier: Apache-2.0
"""The command ``vllm-xpu-fp8 doctor``: is FP8 going to work here, and why not."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vllm_xpu_fp8_plugin.cli.next_step import next_step
from vllm_xpu_fp8_plugin.doctor.report import Check, Report, Section, Status
from vllm_xpu_fp8_plugin.doctor.run_checks import Request, run_checks
from vllm_xpu_fp8_plugin.kernel_package import compiled_attention
from vllm_xpu_fp8_plugin.kernel_package.installed import KernelPackageError
from vllm_xpu_fp8_plugin.terminal import on_a_line, printable

_STYLES = {
    Status.OK: "green",
    Status.NOTE: "cyan",
    Status.WARNING: "yellow",
    Status.PROBLEM: "bold red",
}
_TRACEBACK_LINES = 6
_NARROWEST = 40


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation, and a model, for FP8 on an Intel GPU",
        description="Say whether the plugin will be active, what will run a model, and "
        "whether the result will be right. Needs no Intel GPU. Exit status: 0 nothing "
        "wrong, 1 a problem, 2 it could not run.",
    )
    parser.add_argument(
        "--model",
        help="folder with a config.json, or a name on a hub, of which config.json and "
        "headers are fetched; no weights are loaded",
    )
    parser.add_argument("--quantization", "-q", help="as for vllm serve")
    parser.add_argument("--kv-cache-dtype", help="as for vllm serve")
    parser.add_argument(
        "--kernels",
        type=Path,
        metavar="WHEEL_OR_DIR",
        help="a vllm-xpu-kernels to look at in place of the installed one",
    )
    parser.add_argument(
        "--arch",
        choices=compiled_attention.ARCHITECTURES,
        default="xe2",
        help="whose attention kernels the GPU takes (default: xe2; xe3: Nova Lake P)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report and return the exit status."""
    request = Request(
        args.model, args.quantization, args.kv_cache_dtype, args.kernels, args.arch
    )
    try:
        report = run_checks(request)
    except (ValueError, KernelPackageError) as e:
        print(f"vllm-xpu-fp8 doctor: {on_a_line(str(e))}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        _print(report)
        if report.status in (Status.WARNING, Status.PROBLEM):
            flags = [] if not args.quantization else ["-q", args.quantization]
            if args.kv_cache_dtype:
                flags += ["--kv-cache-dtype", args.kv_cache_dtype]
            print(next_step(args.model, flags))
    return 1 if report.status is Status.PROBLEM else 0


def _print(report: Report) -> None:
    console = Console(highlight=False)
    # Of less (COLUMNS=0) nothing could be read.
    console.width = max(console.width, _NARROWEST)
    command = None
    with console.capture() as captured:
        for section in report.sections:
            rows = [c for c in section.checks if c.name != "command"]
            command = next((c for c in section.checks if c.name == "command"), command)
            console.print(_table(section._replace(checks=rows)))
    # rich fills up the lines of a table with spaces.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    if command:
        # A line to copy: it is never broken.
        print(f"Serve it with:\n{on_a_line(command.finding)}\n")
    print(_summary(report))


def _table(section: Section) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(section.name, no_wrap=True, min_width=10)
    table.add_column("", overflow="fold")
    for check in section.checks:
        style = _STYLES[check.status]
        table.add_row(Text(check.status.word, style), _finding(check))
    table.add_row()
    return table


def _finding(check: Check) -> Group:
    lines = [Text(on_a_line(f"{check.finding}.".replace("..", ".")))]
    if check.remedy:
        lines.append(Text(on_a_line(f"-> {check.remedy}"), "italic"))
    traceback = (check.data or {}).get("traceback")
    if traceback and check.status is Status.PROBLEM:
        last = traceback.rstrip().splitlines()[-_TRACEBACK_LINES:]
        lines.append(Text(printable("\n".join(last)), "dim"))
    return Group(*lines)


def _summary(report: Report) -> str:
    counts = {
        status: sum(c.status is status for s in report.sections for c in s.checks)
        for status in (Status.PROBLEM, Status.WARNING, Status.NOTE)
    }
    parts = [
        f"{count} {status.word}{'s' if count > 1 else ''}"
        for status, count in counts.items()
        if count
    ]
    found = ", ".join(parts) or "Nothing wrong"
    if not any(section.name == "Model" for section in report.sections):
        found += ". To look at a model too: --model MODEL"
    return f"{found}.\nFor all else about this machine: vllm collect-env"
