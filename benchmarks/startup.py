# SPDX-License-Identifier: Apache-2.0
"""What the plugin costs where it is off.

`register()`: its first call in a fresh process, import of the package included.
Platform: the time vLLM takes to resolve `current_platform`, with the plugin
installed and off ÷ not installed. Each sample is a process that has imported torch and
vLLM so far that only this is left, the two kinds in turns. "Not installed" is the same
site-packages without the package's files.
"""

import argparse
import contextlib
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

# Forks a process for each line, which first adds the folders that it names to its path.
RESOLVE = f"""
import os, sys, time
import torch, vllm.platforms
for line in sys.stdin:
    if not os.fork():
        sys.path += line.split()
        start = time.perf_counter()
        vllm.platforms.current_platform
        elapsed = time.perf_counter() - start
        print(elapsed * 1e3, "{NAME}" in sys.modules, flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)
"""


def mirror(folder: Path, with_plugin: bool, without: str = "") -> Path:
    """Make a site-packages of links to the real one's entries.

    Leaves out the entries whose name starts with `without`.
    """
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if without and entry.name.startswith(without):
            continue
        if not _is_ours(entry):
            (folder / entry.name).symlink_to(entry)
    return _link_plugin(folder) if with_plugin else folder


def _is_ours(entry: Path) -> bool:
    return NAME in entry.name.replace("-", "_")


def _link_plugin(folder: Path) -> Path:
    """Add links to the package and what pip wrote of it."""
    for entry in Path(sysconfig.get_path("purelib")).glob("*.dist-info"):
        if _is_ours(entry):
            (folder / entry.name).symlink_to(entry)
    (folder / NAME).symlink_to(Path(__file__).parent.parent / NAME)
    return folder


def start(code: str, *path: Path) -> subprocess.Popen[str]:
    """Start `code` in a fresh interpreter whose site-packages is `path`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    env |= {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    # Byte code as on a user's machine, where pip has compiled it.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        env=env,
        cwd=path[0],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(process: subprocess.Popen[str], line: str = "") -> list[str]:
    """Send a line to a process and return the words of its answer."""
    assert process.stdin and process.stdout
    with contextlib.suppress(BrokenPipeError):
        print(line, file=process.stdin, flush=True)
    if not (answer := process.stdout.readline()):
        raise SystemExit("startup.py: a sample failed, see above")
    return answer.split()


def main() -> None:
    """Take the samples and print their figures and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        site = mirror(Path(tmp) / "site", with_plugin=False)
        plugin = Path(tmp) / "plugin"
        plugin.mkdir()
        _link_plugin(plugin)
        # A process each of a millisecond, of which one in three may be disturbed.
        register = []
        for _ in range(max(args.rounds, 9)):
            with start(REGISTER, plugin, site) as process:
                register.append(float(ask(process)[0]))
        times: dict[str, list[float]] = {"installed_off_ms": [], "not_installed_ms": []}
        with start(RESOLVE, site) as process:
            for _ in track(range(args.rounds), "samples", disable=args.json):
                for name, added in zip(times, (str(plugin), ""), strict=True):
                    elapsed, imported = ask(process, added)
                    # The arms are what they say they are.
                    assert (imported == "True") == bool(added), name
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
