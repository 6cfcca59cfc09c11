# SPDX-License-Identifier: Apache-2.0
"""What the two kinds of arm share: how a process of its own reports to `arm`."""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_xpu_fp8_plugin import processes

if TYPE_CHECKING:
    from tqdm import tqdm

Result = dict[str, Any]

# The exit status for a `CannotRunError`, whose message is the last line of the log.
CANNOT_RUN = 3


class CannotRunError(ValueError):
    """What was asked for cannot be verified; the message says what to do, in a line."""


class Progress:
    """Reports what is going on, as lines of JSON on a pipe.

    Attributes:
        total: How many items there will be, 0 while that is not known.

    """

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "w")
        self._stage = ""
        self._done = 0
        self.total = 0

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self._stage = name
        self.advance(0)

    def advance(self, items: int = 1) -> None:
        """Count finished items."""
        self._done += items
        line = {"stage": self._stage, "done": self._done, "total": self.total}
        print(json.dumps(line), file=self._pipe, flush=True)

    def bar(self) -> "Callable[..., tqdm]":
        """Return what vLLM takes as ``use_tqdm``: it draws nothing and reports."""
        # Here and not above: `verify` itself starts where there is no vLLM, too.
        from tqdm import tqdm

        progress = self

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.update(file=open(os.devnull, "w"))  # noqa: SIM115
                super().__init__(*args, **kwargs)

            def update(self, n: float | None = 1) -> bool | None:
                progress.advance(int(n or 0))
                shown: bool | None = super().update(n)
                return shown

        return Bar


def main(measure: Callable[[Result, Progress], Result]) -> None:
    """Run an arm: ``REQUEST.json RESULT.json PIPE`` are the arguments.

    The result file appears as a whole or not at all.
    """
    request_path, result_path, descriptor = sys.argv[1:]
    _end_with_the_parent()
    processes.collect_less_often()
    progress = Progress(int(descriptor))
    progress.stage("starting")
    try:
        result = measure(json.loads(Path(request_path).read_text()), progress)
    except CannotRunError as e:
        print(f"\n{e}", file=sys.stderr)
        processes.end(CANNOT_RUN)
    except Exception as e:
        traceback.print_exc()
        # The last line is what a user reads first.
        print(f"\n{type(e).__name__}: {e}", file=sys.stderr)
        processes.end(1)
    partial = Path(f"{result_path}.partial")
    partial.write_text(json.dumps(result))
    partial.replace(result_path)
    processes.end(0)


def _end_with_the_parent() -> None:
    """End this process group when the parent's end of stdin closes.

    Covers a parent that was killed and could not clean up.
    """

    def wait() -> None:
        os.read(0, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def versions() -> dict[str, str]:
    """Return the versions that an answer depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("vllm", "torch", "transformers", "vllm-xpu-kernels"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
