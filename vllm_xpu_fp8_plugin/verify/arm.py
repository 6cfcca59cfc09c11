# SPDX-License-Identifier: Apache-2.0
"""Runs an arm in a process of its own, so that nothing leaks from one to another."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vllm_xpu_fp8_plugin import processes
from vllm_xpu_fp8_plugin.verify.child import CANNOT_RUN

REFERENCE, CANDIDATE = "reference", "candidate"
_LOG_LINES = 15

# Variables that change what is computed, or where: ZE_AFFINITY_MASK,
# ONEAPI_DEVICE_SELECTOR, the compiler's and the driver's settings.
_VARIABLES = (
    *("VLLM_", "ZE_", "ONEAPI_", "SYCL_", "IGC_", "CCL_", "NEO_"),
    *("TORCH", "TRITON_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)

# Told the stage, and how many of how many items are done (0 of 0: not known).
OnProgress = Callable[[str, int, int], None]


class ArmError(RuntimeError):
    """An arm could not run; the message names it and ends with its log's last lines."""


def run(
    role: str, request: dict[str, Any], folder: Path, on_progress: OnProgress
) -> dict[str, Any]:
    """Run an arm and return its result.

    Args:
        role: `REFERENCE` or `CANDIDATE`.
        request: What the arm's script gets; ``script`` is its module.
        folder: Where the request, the result and the log are written.
        on_progress: Called as the arm goes on.

    Raises:
        ArmError: It ended without a result.
        KeyboardInterrupt: Passed on, when every process of the arm has ended.

    """
    paths = {x: folder / f"{role}.{x}" for x in ("request.json", "json", "log")}
    paths["request.json"].write_text(json.dumps({**request, "role": role}))
    paths["json"].unlink(missing_ok=True)
    receive, send = os.pipe()
    files = [str(paths[x].absolute()) for x in ("request.json", "json")]
    with paths["log"].open("wb") as log:
        process = subprocess.Popen(
            processes.command(request["script"], *files, str(send)),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(send,),
            cwd=processes.folder(request.get("flags", ())),
            env=_environment(),
            # Ctrl-C in a terminal goes to a whole group; this one is ended below.
            start_new_session=True,
        )
    with _ended_in_the_end(process), os.fdopen(receive) as lines:
        os.close(send)
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):
                report = json.loads(line)
                on_progress(
                    f"{role}: {report['stage']}", report["done"], report["total"]
                )
        process.wait()
    if process.returncode or not paths["json"].exists():
        raise ArmError(_failure(role, process.returncode, paths["log"]))
    result: dict[str, Any] = json.loads(paths["json"].read_text())
    return result


def key(request: dict[str, Any], machine: dict[str, Any]) -> str:
    """Return a hash of all that a result depends on.

    A model in a folder counts by its files' names, sizes and times; one from a hub
    by its name, so that a revision that moved needs another output folder.

    Args:
        request: What the arm gets: model, flags, data, seed.
        machine: What it runs on: `machine.describe`.

    """
    files = []
    model = Path(request["reference_model"] or request["model"])
    if model.is_dir():
        for path in sorted(p for p in model.rglob("*") if p.is_file()):
            stat = path.stat()
            name = str(path.relative_to(model))
            files.append([name, stat.st_size, stat.st_mtime_ns])
    environment = {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
    given = json.dumps([request, files, machine, environment], sort_keys=True)
    return hashlib.sha256(given.encode()).hexdigest()


@contextlib.contextmanager
def _ended_in_the_end(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End every process of the arm's group, whatever happens."""

    def end_workers() -> None:
        # Those that outlive a crashed arm would hold its pipe open.
        process.wait()
        _signal(process, signal.SIGKILL)

    threading.Thread(target=end_workers, daemon=True).start()
    try:
        yield
    except BaseException:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        raise
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _environment() -> dict[str, str]:
    """Return the arm's environment: an engine in one process, with its log on."""
    defaults = {
        # It starts faster, and a crash shows in the arm's log.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
    }
    return {**defaults, **processes.environment()}


def _failure(role: str, status: int, log: Path) -> str:
    end = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    if status == CANNOT_RUN and end:
        return f"the {role} arm cannot run: {end[-1]}"
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    shown = "\n".join(f"  {line}" for line in end)
    return f"the {role} arm ended {how}. The end of its log ({log}):\n{shown}"
