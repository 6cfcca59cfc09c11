# SPDX-License-Identifier: Apache-2.0
"""``vllm-xpu-fp8 verify``: the same engine with and without FP8 on the same input."""

import argparse
import contextlib
import importlib.util
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vllm_xpu_fp8_plugin import processes
from vllm_xpu_fp8_plugin.cli.next_step import next_step
from vllm_xpu_fp8_plugin.terminal import printable
from vllm_xpu_fp8_plugin.verify import arm, inputs, workflow

_EPILOG = """\
exit status: 0 pass, 1 drift or alarm, 2 could not run.
Everything after -- is for vLLM's engine, in both arms: -- --max-model-len 512
"""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "verify",
        help="prove that FP8 gives the right answers",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a folder or a hub name")
    add(
        "--quantization",
        metavar="METHOD",
        help="the candidate's, as for vLLM (default: fp8, if neither --kv-cache-dtype "
        "nor --reference-model is given)",
    )
    add("--kv-cache-dtype", metavar="DTYPE", help="the candidate's, as for vLLM")
    add("--data", type=Path, metavar="FILE", help="JSONL; default: a built-in set")
    add("--skip-bad", action="store_true", help="leave out bad lines of FILE")
    add(
        "--against",
        choices=(workflow.UNQUANTIZED, workflow.TRANSFORMERS),
        default=workflow.UNQUANTIZED,
        help="the reference: vLLM without FP8 (default), or transformers in float32",
    )
    add(
        "--reference-model",
        metavar="MODEL",
        help="what the reference loads, where MODEL is an FP8 checkpoint",
    )
    add(
        "--output",
        type=Path,
        default=Path("verify-report"),
        metavar="DIR",
        help="for report.json, report.png and logs (default: verify-report)",
    )
    add("--json", action="store_true", help="print report.json instead of tables")
    add(
        "--limit",
        action="append",
        default=[],
        metavar="MEASURE=VALUE[,ALARM]",
        help="other limits for a measure; may be repeated",
    )
    add("--max-tokens", type=_positive, default=64, metavar="N", help="for a prompt")
    add("--seed", type=int, default=0, help="order of the items (default: 0)")
    add("flags", nargs="*", metavar="-- FLAGS", help="flags for vLLM's engine")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run both arms, print and write the report, and return the exit status."""
    try:
        with terminated_as_interrupted():
            return _run(args)
    except BrokenPipeError:
        raise
    except (inputs.BadDataError, arm.ArmError, ValueError, OSError) as e:
        print(f"vllm-xpu-fp8 verify: {printable(str(e))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vllm-xpu-fp8 verify: interrupted; both arms ended.", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    for name in ("vllm", "torch"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"{name} is not installed in this Python environment ({sys.prefix}). "
                "Run this command with the Python that runs vLLM."
            )
    # They import numpy, which comes with vLLM.
    from vllm_xpu_fp8_plugin.verify import display
    from vllm_xpu_fp8_plugin.verify.threshold import PASS
    from vllm_xpu_fp8_plugin.verify.verdict import judge

    options = _options(args)
    options.output.mkdir(parents=True, exist_ok=True)
    # What an earlier run left must not be taken for this one's.
    paths = [options.output / name for name in ("report.json", "report.png")]
    for path in paths:
        path.unlink(missing_ok=True)
    with progress("verify") as on_progress:
        reference, candidate, reused = workflow.both_arms(options, on_progress)
    made = {
        **judge(reference, candidate, options.limits),
        "model": options.model,
        "reference_model": options.reference_model,
        "against": options.against,
        "flags": options.flags,
        "data": str(args.data) if args.data else "built-in",
        "seed": options.seed,
        "max_tokens": options.max_tokens,
        "reference_reused": reused,
    }
    text = json.dumps(made, indent=1, allow_nan=False)
    paths[0].write_text(text + "\n")
    written = "report.json"
    try:
        display.draw(made, paths[1])
        written += ", report.png"
    except ImportError:
        print(
            "vllm-xpu-fp8 verify: report.png needs matplotlib (pip install matplotlib)",
            file=sys.stderr,
        )
    if args.json:
        print(text)
    else:
        display.show(made, Console(highlight=False))
        # On a line of its own: a path can be longer than a terminal is wide.
        print(f"\n{written} written to\n{printable(str(options.output))}")
        if made["verdict"] != PASS:
            print(f"\n{next_step(options.model, options.flags)}")
    return int(made["verdict"] != PASS)


def _options(args: argparse.Namespace) -> workflow.Options:
    """Check what was given, before anything starts.

    Raises:
        ValueError: Something is wrong; the message says what is allowed.

    """
    from vllm_xpu_fp8_plugin.verify.limits import parse_limits

    flags = processes.absolute(args.flags)
    for flag in flags:
        name = flag.split("=")[0].replace("_", "-")
        if name in ("--model", "--quantization", "-q", "--kv-cache-dtype"):
            raise ValueError(f"{flag}: give {name} before the --, not after it.")
    quantization = args.quantization
    if not (quantization or args.kv_cache_dtype or args.reference_model):
        quantization = "fp8"
    if quantization:
        flags += ["--quantization", quantization]
    if args.kv_cache_dtype:
        flags += ["--kv-cache-dtype", args.kv_cache_dtype]
    limits = dict(parse_limits(args.limit))
    data = inputs.builtin()
    if args.data:
        data, bad = inputs.read(args.data, skip_bad=args.skip_bad)
        for message in bad:
            skipped = printable(message)
            print(f"vllm-xpu-fp8 verify: skipped {skipped}", file=sys.stderr)
    return workflow.Options(
        model=model_name(args.model),
        reference_model=args.reference_model and model_name(args.reference_model),
        against=args.against,
        flags=flags,
        data=data,
        builtin=args.data is None,
        output=args.output,
        seed=args.seed,
        max_tokens=args.max_tokens,
        limits=limits,
    )


def model_name(name: str) -> str:
    """Return the name with a folder's path made absolute."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"--model {name}: the folder has no config.json.")
        # A link keeps its name, which is the one in the report.
        return str(path.absolute())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"--model {name}: no such folder.")
    return name


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM, by which a CI stops a job, like Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def progress(command: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield what draws a bar on a terminal, or says each stage on a line."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as shown:
        bar, last, last_total = shown.add_task("", total=None), "", 0

        def on_progress(stage: str, done: int, total: int) -> None:
            nonlocal bar, last, last_total
            if stage != last and not console.is_terminal:
                print(f"{command}: {stage}", file=sys.stderr, flush=True)
            if total != last_total:
                # The other arm's; a bar cannot go back to a total that is not known.
                shown.remove_task(bar)
                bar = shown.add_task("", total=total or None)
            last, last_total = stage, total
            shown.update(bar, description=stage, completed=done)

        yield on_progress
