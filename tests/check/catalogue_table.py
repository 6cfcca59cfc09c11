# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/check.md: the catalogue on each release of the kernels.

    python -m tests.check.catalogue_table [--ops PATTERN] [VERSION ...]

downloads each release, runs ``vllm-xpu-fp8 check`` with it on a virtual Intel GPU, and
puts what each op did into the table. Other releases and ops stay as they are in it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".check"
DOCS = ROOT / "docs" / "check.md"
RELEASES = ("0.1.12.1", "0.1.13.2", "0.1.14.1", "0.1.15.4", "0.1.16.2")
_MARKED = re.compile(r"(<!-- catalogue -->\n).*?(<!-- /catalogue -->)", re.DOTALL)


def package(release: str) -> Path:
    """Return the folder of an unpacked release."""
    folder = FOLDER / "packages" / release
    if not folder.exists():
        wheels = FOLDER / "wheels"
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        wanted = f"vllm-xpu-kernels=={release}"
        subprocess.run([*download, "-d", wheels, wanted], check=True)
        with zipfile.ZipFile(next(wheels.glob(f"*-{release}-*.whl"))) as wheel:
            wheel.extractall(folder)
    return folder


def run(release: str, ops: str) -> dict[str, str]:
    """Run the catalogue with a release, and return op -> cell."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(package(release)),
        "VLLM_XPU_FP8_PLUGIN": "emulate",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(Path(sys.executable).parent / "vllm-xpu-fp8"), "check"]
    output = ["--output", str(FOLDER / release), "--ops", ops]
    done = subprocess.run([*command, *output], env=environ, check=False)
    assert done.returncode in (0, 1), done.returncode
    report = json.loads((FOLDER / release / "report.json").read_text())
    return {op["op"]: cell(op) for op in report["ops"]}


def cell(op: dict[str, Any]) -> str:
    """Return what a release's op did."""
    if op["faults"]:
        return "**" + ", ".join(dict.fromkeys(f["kind"] for f in op["faults"])) + "**"
    if not op["made"]:
        return "refused"
    mark = "" if op["runs_as"] == "compiled" else r" \*"
    return f"{op['ulps']:.2g}{mark}"


def rows(text: str) -> dict[str, list[str]]:
    """Return op -> its cells, of the table in the page."""
    marked = _MARKED.search(text)
    assert marked
    found = {}
    for line in marked[0].splitlines():
        name, *cells = (x.strip() for x in line.strip("|").split(" |"))
        if name.startswith("`"):
            found[name.strip("`")] = cells
    return found


def main() -> None:
    """Run the releases that are named, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="*", metavar="VERSION", choices=[*RELEASES])
    parser.add_argument("--ops", default="*", metavar="PATTERN")
    options = parser.parse_args()
    for release in options.releases:
        cells = run(release, options.ops)
        text = DOCS.read_text()
        table = rows(text)
        for op, said in cells.items():
            table.setdefault(op, [""] * len(RELEASES))[RELEASES.index(release)] = said
        lines = [
            "| op | " + " | ".join(RELEASES) + " |",
            "|---" * (len(RELEASES) + 1) + "|",
            *(f"| `{op}` | " + " | ".join(table[op]) + " |" for op in sorted(table)),
        ]
        made = "\n".join(lines) + "\n"
        DOCS.write_text(_MARKED.sub(lambda m, made=made: m[1] + made + m[2], text))


if __name__ == "__main__":
    main()
