# SPDX-License-Identifier: Apache-2.0
"""What the plugin costs where it is off.

`register()`: its first call in a fresh process, import of the package included.
Platform: the time vLLM takes to resolve `current_platform`, with the plugin
installed and off ÷ not installed. Each sample is a fresh process, the two kinds in
turns. "Not installed" is the same site-packages without the package's files.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from rich.progress import track

NAME = "vllm_xpu_fp8_plugin"

REGISTER = f"""
import os, time
start = time.perf_counter()
import {NAME}
assert {NAME}.register() is None
print((time.perf_counter() - start) * 1e3)
"""

RESOLVE = f"""
import importlib.util, sys, time
import torch, vllm.platforms
start = time.perf_counter()
vllm.platforms.current_platform
elapsed = time.perf_counter() - start
print(elapsed * 1e3, "{NAME}" in sys.modules)
"""


def mirror(folder: Path, with_plugin: bool, without: str = "") -> Path:
    """Make a site-packages of links to the real one's entries.

    Leaves out the entries whose name starts with `without`.
    """
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if without and entry.name.startswith(without):
            continue
        ours = NAME in entry.name.replace("-", "_")
        if not ours or (with_plugin and entry.suffix == ".dist-info"):
            (folder / entry.name).symlink_to(entry)
    if with_plugin:
        (folder / NAME).symlink_to(Path(__file__).parent.parent / NAME)
    return folder


def run(code: str, path: Path) -> list[str]:
    """Run `code` in a fresh interpreter whose site-packages is `path`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    env |= {"PYTHONPATH": str(path), "VLLM_LOGGING_LEVEL": "ERROR"}
    # Byte code as on a user's machine, where pip has compiled it.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=env,
        cwd=path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise SystemExit(f"startup.py: a sample failed:\n{done.stderr[-2000:]}")
    return done.stdout.split()


def main() -> None:
    """Take the samples and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        paths = {
            "installed_off_ms": mirror(Path(tmp) / "with", True),
            "not_installed_ms": mirror(Path(tmp) / "without", False),
        }
        # A process each of a millisecond, of which one in three may be disturbed.
        register = [
            float(run(REGISTER, paths["installed_off_ms"])[0])
            for _ in range(max(args.rounds, 9))
        ]
        times: dict[str, list[float]] = {name: [] for name in paths}
        for _ in track(range(args.rounds), "samples", disable=args.json):
            for name, path in paths.items():
                elapsed, imported = run(RESOLVE, path)
                # The arms are what they say they are.
                assert (imported == "True") == (name == "installed_off_ms"), name
                times[name].append(float(elapsed))
    # The least disturbed sample: noise only adds.
    result = {name: round(min(samples), 2) for name, samples in times.items()}
    result["ratio"] = round(
        min(times["installed_off_ms"]) / min(times["not_installed_ms"]), 3
    )
    result["register_off_ms"] = round(statistics.median(register), 3)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"register() when off      {result['register_off_ms']:8.3f} ms")
        print(f"platform, installed, off {result['installed_off_ms']:8.2f} ms")
        print(f"platform, not installed  {result['not_installed_ms']:8.2f} ms")
        print(f"ratio                    {result['ratio']:8.3f}")


if __name__ == "__main__":
    main()
