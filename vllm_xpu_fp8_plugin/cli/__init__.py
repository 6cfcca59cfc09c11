# SPDX-License-Identifier: Apache-2.0
"""The command ``vllm-xpu-fp8``: one module of this package a subcommand.

A module has ``add_parser(subparsers)``, which adds its parser and sets the
default ``run`` to a function of the parsed arguments that returns the exit status.
"""

import argparse
import importlib
from collections.abc import Sequence

from vllm_xpu_fp8_plugin import __version__

_COMMANDS: tuple[str, ...] = ("doctor", "verify")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    Args:
        argv: The command line without the program's name; by default the process's.

    Returns:
        0 nothing wrong, 1 a problem was found, 2 it could not run.

    """
    parser = argparse.ArgumentParser(
        prog="vllm-xpu-fp8", description="FP8 models on Intel GPUs with vLLM."
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in _COMMANDS:
        importlib.import_module(f"{__name__}.{name}").add_parser(subparsers)
    args = parser.parse_args(argv)
    return int(args.run(args))
