# SPDX-License-Identifier: Apache-2.0
"""Run the contract suite over vLLM and kernel releases.

A combination whose result is there is not run again unless the sources have changed.
"""

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.matrix import results
from tests.matrix.environments import (
    ROOT,
    Environment,
    Maker,
    NotInstallableError,
    TimeIsUpError,
)

# fmt: off
VLLM = [
    "0.20.2", "0.21.0", "0.22.1", "0.23.0", "0.24.0", "0.25.1", "0.26.0", "0.27.1",
    "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0",
]
KERNELS = ["0.1.3.1", "0.1.12.1", "0.1.13.2", "0.1.14.1", "0.1.15.4", "0.1.16.2"]
# fmt: on

_PART_SECONDS = 600


def main() -> int:
    """Run what is asked for, print a line each, return the exit status."""
    options = _options()
    if options.docs:
        results.write_docs(results.load(options.output))
        return 0
    maker = Maker(options.budget, options.installed_torch)
    cells = results.load(options.output)
    sources = _sources()
    pairs = [(v, k) for v in options.vllm for k in options.kernels]
    if options.ends:
        pairs = results.ends(results.load())
    done: list[results.Cell] = []
    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=len(pairs))
        for vllm, kernels in pairs:
            progress.update(task, description=f"vLLM {vllm}, kernels {kernels}")
            cell = cells.get((vllm, kernels))
            if cell is None or cell["sources"] != sources:
                cell = {**_run(vllm, kernels, maker), "sources": sources}
            passed = cell["status"] == results.PASSED
            if options.rerank and passed and not cell["rerank"]:
                cell["rerank"] = _part("rerank", maker.make(vllm, kernels))
            if cell["status"] != results.SKIPPED:
                cells[vllm, kernels] = cell
                results.save(cells, options.output)
            progress.print(_line(cell), soft_wrap=True)
            done.append(cell)
            progress.advance(task)
    return _summary(done)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)

    def add(name: str, text: str, **kwargs: Any) -> None:
        parser.add_argument(f"--{name}", help=text, **kwargs)

    comma = {"type": lambda text: text.split(","), "metavar": "VERSION,..."}
    add("vllm", "vLLM releases (default: all)", default=VLLM, **comma)
    add("kernels", "vllm-xpu-kernels releases (default: all)", default=KERNELS, **comma)
    text = "the oldest and the newest vLLM only, with kernels that each has passed with"
    add("ends", text, action="store_true")
    add("rerank", "also run an FP8 engine in each", action="store_true")
    add("output", "folder of the results", type=Path, default=results.FOLDER)
    add("budget", "seconds for downloads; what takes longer is skipped", type=float)
    text = "do not download the torch that a vLLM asks for"
    add("installed-torch", text, action="store_true")
    text = "write the documentation's table from the results, run nothing"
    add("docs", text, action="store_true")
    return parser.parse_args()


def _run(vllm: str, kernels: str, maker: Maker) -> results.Cell:
    """Run the contract suite in a combination."""
    cell: results.Cell = {
        "vllm": vllm,
        "kernels": kernels,
        "torch": None,
        "status": results.FAILED,
        "error": None,
        "checks": {},
        "adjustments": [],
        "compiled": None,
        "rerank": None,
        "notes": [],
        "date": datetime.date.today().isoformat(),
    }
    try:
        environment = maker.make(vllm, kernels)
    except NotInstallableError as e:
        return {**cell, "status": results.NOT_INSTALLABLE, "error": str(e)}
    except TimeIsUpError as e:
        return {**cell, "status": results.SKIPPED, "error": str(e)}
    cell["notes"] = environment.notes
    cell.update(_part("contract", environment))
    errors = [f"{k}: {error}" for k, error in cell["checks"].items() if error]
    cell["error"] = cell["error"] or next(iter(errors), None)
    if cell["error"]:
        if refusal := _part("upstream", environment).get("refusal"):
            cell.update(status=results.REFUSED, error=refusal)
    else:
        cell["status"] = results.PASSED
    return cell


def _part(name: str, environment: Environment) -> dict[str, Any]:
    """Run a part of `tests.matrix.cell`, return what it found."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    variables |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        **environment.variables(),
    }
    if name != "upstream":
        variables["VLLM_XPU_FP8_PLUGIN"] = "emulate"
    with tempfile.TemporaryDirectory() as tmp:
        file = Path(tmp) / "found.json"
        command = [sys.executable, "-m", "tests.matrix.cell", name, str(file)]
        try:
            done = subprocess.run(
                command,
                env=variables,
                cwd=tmp,
                capture_output=True,
                text=True,
                timeout=_PART_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"{name}: not done within {_PART_SECONDS} s"}
        if not file.exists():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            return {"error": f"{name} ended with {done.returncode}: {last[:300]}"}
        return dict(json.loads(file.read_text()))


def _sources() -> str:
    """Return a digest of what is tested and of what tests it."""
    digest = hashlib.sha256()
    for folder in ("vllm_xpu_fp8_plugin", "tests/matrix"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _line(cell: results.Cell) -> str:
    line = f"vLLM {cell['vllm']}, kernels {cell['kernels']}: {cell['status']}"
    if cell["torch"]:
        line += f" (torch {cell['torch']})"
    if cell["error"]:
        line += f"\n  {cell['error']}"
    if rerank := cell["rerank"]:
        line += f"\n  FP8 rerank: {rerank['error'] or 'as transformers ranks'}"
    return line


def _summary(done: list[results.Cell]) -> int:
    """Print how many there are of each status, return the exit status."""
    for status in (
        results.PASSED,
        results.FAILED,
        results.REFUSED,
        results.NOT_INSTALLABLE,
        results.SKIPPED,
    ):
        if count := sum(cell["status"] == status for cell in done):
            print(f"{count} {status}")
    bad = [cell for cell in done if cell["status"] == results.FAILED]
    bad += [cell for cell in done if cell["rerank"] and cell["rerank"]["error"]]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
