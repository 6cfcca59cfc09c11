# SPDX-License-Identifier: Apache-2.0
"""``vllm-xpu-fp8 check``: every kernel that a model calls, against float64."""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from vllm_xpu_fp8_plugin import envs, processes
from vllm_xpu_fp8_plugin.cli.verify import (
    model_name,
    progress,
    terminated_as_interrupted,
)
from vllm_xpu_fp8_plugin.terminal import printable
from vllm_xpu_fp8_plugin.verify import arm

_EPILOG = """\
exit status: 0 every op computes what it should, 1 one does not, 2 could not run.
Everything after -- is for vllm's engine: -- --quantization fp8 --max-model-len 512
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "check",
        help="find the kernel that computes something else",
        description="Make calls of the kernel package's ops on the device and compare "
        "with float64\non the CPU: the calls that a model makes, or a catalogue of "
        "typical and awkward ones.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", help="a folder or a hub name; default: the catalogue")
    add(
        "--ops",
        default="*",
        metavar="PATTERN",
        help="names of ops to check, such as '*norm*' (default: all)",
    )
    add("--device", default="xpu", help="torch's name of the device (default: xpu)")
    add(
        "--output",
        type=Path,
        default=Path("check-report"),
        metavar="DIR",
        help="for report.json, check.png and repros (default: check-report)",
    )
    add("--json", action="store_true", help="print report.json instead of a table")
    add("flags", nargs="*", metavar="-- FLAGS", help="flags for vLLM's engine")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, print and write the report, and return the exit status."""
    try:
        with terminated_as_interrupted():
            return _run(args)
    except BrokenPipeError:
        raise
    except (arm.ArmError, ValueError, OSError) as e:
        print(f"vllm-xpu-fp8 check: {printable(str(e))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vllm-xpu-fp8 check: interrupted; its process ended.", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    for name in ("torch", *(("vllm",) if args.model else ())):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"{name} is not installed in this Python environment ({sys.prefix}). "
                "Run this command with the Python that runs vLLM."
            )
    from vllm_xpu_fp8_plugin.check import display, summary, workflow

    if args.flags and not args.model:
        raise ValueError(f"{args.flags[0]}: engine flags need --model.")
    options = workflow.Options(
        model=args.model and model_name(args.model),
        flags=processes.absolute(args.flags),
        ops=args.ops,
        device=args.device,
        output=args.output,
    )
    # On a virtual GPU, what is checked is the kernels' own code wherever it can run,
    # be it slow. Its processes inherit this.
    os.environ.setdefault(envs.VIRTUAL_OPS.name, envs.COMPILED)
    options.output.mkdir(parents=True, exist_ok=True)
    # What an earlier run left must not be taken for this one's.
    paths = [options.output / name for name in ("report.json", "check.png")]
    for path in paths:
        path.unlink(missing_ok=True)
    with progress("check") as on_progress:
        made = workflow.run(options, on_progress)
    text = json.dumps(made, indent=1, allow_nan=False)
    paths[0].write_text(text + "\n")
    written = "report.json"
    try:
        display.draw(made, paths[1])
        written += ", check.png"
    except ImportError:
        print(
            "vllm-xpu-fp8 check: check.png needs matplotlib (pip install matplotlib)",
            file=sys.stderr,
        )
    repros = sorted(options.output.glob("repro_*.py"))
    written += f", {len(repros)} repro_*.py" if repros else ""
    if args.json:
        print(text)
    else:
        display.show(made, Console(highlight=False))
        print(f"\n{written} written to\n{printable(str(options.output))}")
    return int(made["verdict"] != summary.PASS)
