# SPDX-License-Identifier: Apache-2.0
"""The command ``vllm-xpu-fp8``: one module of this package a subcommand.

A module has ``add_parser(subparsers)``, which adds its parser and sets the
default ``run`` to a function of the parsed arguments that returns the exit status.
At its top it imports nothing but the standard library and `rich`: all modules are
imported before a command is chosen, also where there is no vLLM.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from vllm_xpu_fp8_plugin import __version__
from vllm_xpu_fp8_plugin.terminal import never_fail_to_encode, printable

_COMMANDS: tuple[str, ...] = ("check", "doctor", "run", "verify")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    Args:
        argv: The command line without the program's name; by default the process's.

    Returns:
        0 nothing wrong, 1 a problem was found, 2 it could not run. As shells say
        of any command: 130 it was interrupted, 141 nobody read its output.

    """
    never_fail_to_encode()
    parser = argparse.ArgumentParser(
        prog="vllm-xpu-fp8", description="FP8 models on Intel GPUs with vLLM."
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in _COMMANDS:
        importlib.import_module(f"{__name__}.{name}").add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        status = int(args.run(args))
        # Here and not when the interpreter ends, where an error has no handler.
        if sys.stdout:  # none where the shell has closed it
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as e:
        print(f"{parser.prog}: {printable(str(e))}", file=sys.stderr)
        _discard_output()
        return 2
    return status


def _discard_output() -> None:
    """Keep the interpreter from writing the rest of the output at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
