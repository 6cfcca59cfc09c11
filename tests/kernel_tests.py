# SPDX-License-Identifier: Apache-2.0
"""Runs the kernel package's own tests, unmodified, on the virtual XPU.

    python -m tests.kernel_tests CHECKOUT [--kernels 0.1.14.1 0.1.16.2] [--files PART]
        [--compiled]

CHECKOUT is one of vllm-xpu-kernels; it is not changed. With ``--compiled`` ops that are
in PyTorch by default, for speed, run their own code. What each file gave is kept in
tests/kernel_tests.json, of which docs/kernel_tests.md is made.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from tests.real_models import unpacked

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "kernel_tests.md"
RESULTS = Path(__file__).with_suffix(".json")
COMMAND = Path(sys.executable).parent / "vllm-xpu-fp8"
# Seconds for a file; attention's takes half an hour, in PyTorch as of its own code.
_TIMEOUT = 2 * 3600
_COMPILED = "its own code"
_NO_EXPERT = (
    "of expert parallelism: of 2 experts on 4 ranks a rank has none, and "
    "remap_hidden_states reads its empty map"
)
# (part of a path, part of a cause) -> why it is not the virtual XPU's.
_WHY = {
    ("flash_attn", "not compiled for this"): "left out of the published build",
    ("test_mla_decode", "DID NOT RAISE"): "the release's library has no such refusal",
    ("test_fp8_gemm", "assert (("): "the test's own check of the shapes it was given",
    ("test_fused_moe", "crashed"): _NO_EXPERT,
    ("test_fused_moe", "not close"): _NO_EXPERT,
    ("test_fused_moe", "clamp_limit"): "none of the test's values reaches the limit",
}


class Result(NamedTuple):
    """What a test file gave.

    Attributes:
        passed: Number of tests.
        failed: Number of tests that ran and failed, or crashed their process.
        not_runnable: Number of tests of ops that the virtual XPU says it cannot run.
        skipped: Number of tests that skipped themselves.
        causes: Of failures and of what cannot be run, with how often.

    """

    passed: int
    failed: int
    not_runnable: int
    skipped: int
    causes: Counter[str]


def run_file(checkout: Path, file: Path, package: Path, compiled: bool) -> Result:
    """Run one test file; a test that crashes takes its worker process only."""
    with tempfile.TemporaryDirectory() as folder:
        pytest = ["python", "-m", "pytest", "-q", "-o", f"cache_dir={folder}/cache"]
        environ = {
            **os.environ,
            "PYTHONPATH": str(package),
            # The tests know this card's memory by number.
            "VLLM_XPU_FP8_VIRTUAL_GPU": "b60",
            "XPU_KERNEL_TEST_SCOPE": os.environ.get("XPU_KERNEL_TEST_SCOPE", "mini"),
        }
        if compiled:
            environ["VLLM_XPU_FP8_VIRTUAL_OPS"] = "compiled"
        runs = [["-n", "1"]]
        if compiled:
            # The kernels' compiler takes one core, PyTorch every core for a test. What
            # fails side by side runs again by itself: tests share a device's memory.
            runs = [["-n", "auto"], ["-n", "1", "--lf", "--lfnf=none"]]
        reports = []
        for flags in runs:
            report = Path(folder) / f"{len(reports)}.xml"
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [
                        *(COMMAND, "run", "--", *pytest, *flags),
                        *(f"--junit-xml={report}", str(file)),
                    ],
                    cwd=checkout,
                    env=environ,
                    capture_output=True,
                    timeout=_TIMEOUT,
                    check=False,
                )
            if not report.exists():
                return Result(0, 1, 0, 0, Counter({f"not done in {_TIMEOUT} s": 1}))
            reports.append(report)
        return read_reports(*reports)


def read_reports(*reports: Path) -> Result:
    """Return the result that JUnit files tell, of a test in several the last."""
    counts: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    cases = {
        (case.get("classname"), case.get("name")): case
        for report in reports
        for case in ET.parse(report).getroot().iter("testcase")
    }
    for case in cases.values():
        bad = case.find("failure")
        bad = case.find("error") if bad is None else bad
        if bad is None:
            counts["passed" if case.find("skipped") is None else "skipped"] += 1
            continue
        message = cause(f"{bad.get('message', '')}")
        refused = "virtual XPU cannot run" in message or "no image for" in message
        counts["not_runnable" if refused else "failed"] += 1
        causes[message] += 1
    return Result(
        *(counts[key] for key in ("passed", "failed", "not_runnable", "skipped")),
        causes,
    )


def cause(message: str) -> str:
    """Return a failure's message without what differs from test to test."""
    line = next((x for x in message.splitlines() if x.strip()), "no message")
    line = re.sub(r" \(vllm-xpu-kernels [\d.]+\)|, and it has no PyTorch.*", "", line)
    line = re.sub(r"0x[0-9a-f]+|\bgw\d+|'tests/[^']*'", "...", line)
    return line.strip()[:160].replace("!", "")


def why(file: str, text: str) -> str:
    """Return in brackets why a failure is not the virtual XPU's, "" if it may be."""
    found = (w for (part, piece), w in _WHY.items() if part in file and piece in text)
    return next((f" ({w})" for w in found), "")


def page(results: dict[str, dict[str, Result]], commit: str) -> str:
    """Return the page of all results, by release and file."""
    lines = [
        "# The kernel package's own tests on the virtual XPU",
        "",
        f"Tests of vllm-xpu-kernels at commit {commit[:7]}, scope mini, unmodified,",
        "each file by itself. Generated by `make kernel-tests CHECKOUT=...`.",
        "*not runnable*: the virtual XPU says that it cannot run the op. Attention is",
        f"in PyTorch, but where a heading says *{_COMPILED}*; of that:",
        "[virtual_gpu.md](virtual_gpu.md).",
    ]
    for release, files in results.items():
        total = [sum(r[i] for r in files.values()) for i in range(4)]
        lines += [
            "",
            f"## {release}: {total[0]} passed, {total[1]} failed, "
            f"{total[2]} not runnable",
            "",
            "| file | passed | failed | not runnable | skipped | causes |",
            "|---|---|---|---|---|---|",
        ]
        for file, result in sorted(files.items()):
            causes = "; ".join(
                f"{n} of {text}{why(file, text)}".replace("|", "\\|")
                for text, n in result.causes.most_common(5)
            )
            numbers = " | ".join(str(n) for n in result[:4])
            lines.append(f"| {file} | {numbers} | {causes} |")
    return "\n".join(lines) + "\n"


def _load() -> dict[str, dict[str, Result]]:
    if not RESULTS.exists():
        return {}
    stored = json.loads(RESULTS.read_text())["results"]
    return {
        release: {
            name: Result(*values[:4], Counter(values[4]))
            for name, values in files.items()
        }
        for release, files in stored.items()
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--kernels", nargs="+", default=["0.1.14.1", "0.1.16.2"])
    parser.add_argument("--files", default="", help="run only paths with this part")
    parser.add_argument("--compiled", action="store_true")
    args = parser.parse_args()
    checkout = args.checkout.resolve()
    files = sorted((checkout / "tests").rglob("test_*.py"))
    names = [str(f.relative_to(checkout)) for f in files]
    names = [n for n in names if args.files in n and "scope_profiles" not in n]
    if not names:
        sys.exit(f"{checkout} has no test file with {args.files!r} in its path.")
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout
    commit = commit.strip() or "unknown"
    results = _load()
    for release in args.kernels:
        package = unpacked(f"vllm-xpu-kernels=={release}")
        key = f"{release}, {_COMPILED}" if args.compiled else release
        for name in track(names, f"vllm-xpu-kernels {key}"):
            start = time.monotonic()
            result = run_file(checkout, Path(name), package, args.compiled)
            results.setdefault(key, {})[name] = result
            print(
                f"{name}: {result[:4]} in {time.monotonic() - start:.0f} s", flush=True
            )
            stored = {"commit": commit, "results": results}
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
            PAGE.write_text(page(results, commit))


if __name__ == "__main__":
    main()
