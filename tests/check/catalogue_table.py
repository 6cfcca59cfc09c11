# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/check.md: the catalogue on each release of the kernels.

    python -m tests.check.catalogue_table [VERSION ...]

downloads each release, runs ``vllm-xpu-fp8 check`` with it on a virtual Intel GPU, and
keeps the report in ``.check/VERSION``, from which the table is made. Releases that are
not named are taken from there.
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


def run(release: str) -> None:
    """Run the catalogue with a release."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(package(release)),
        "VLLM_XPU_FP8_PLUGIN": "emulate",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(Path(sys.executable).parent / "vllm-xpu-fp8"), "check"]
    output = ["--output", str(FOLDER / release)]
    done = subprocess.run([*command, *output], env=environ, check=False)
    assert done.returncode in (0, 1), done.returncode


def cell(op: dict[str, Any] | None) -> str:
    """Return what a release's op did."""
    if op is None:
        return ""
    if op["faults"]:
        return "**" + ", ".join(dict.fromkeys(f["kind"] for f in op["faults"])) + "**"
    if not op["made"]:
        return "refused"
    mark = "" if op["runs_as"] == "compiled" else r" \*"
    return f"{op['ulps']:.2g}{mark}"


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Return the table: an op a row, a release a column."""
    by_release = {v: {op["op"]: op for op in r["ops"]} for v, r in reports.items()}
    names = sorted({n for ops in by_release.values() for n in ops})
    lines = [
        "| op | " + " | ".join(by_release) + " |",
        "|---" * (len(by_release) + 1) + "|",
    ]
    for name in names:
        cells = [cell(ops.get(name)) for ops in by_release.values()]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    counts = [f"{r['calls']}" for r in reports.values()]
    lines.append("| calls | " + " | ".join(counts) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the releases that are named, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="*", metavar="VERSION")
    for release in parser.parse_args().releases:
        run(release)
    reports = {
        release: json.loads(path.read_text())
        for release in RELEASES
        if (path := FOLDER / release / "report.json").exists()
    }
    text = _MARKED.sub(
        lambda m: m[1] + table(reports) + m[2],
        DOCS.read_text(),
    )
    DOCS.write_text(text)


if __name__ == "__main__":
    main()
