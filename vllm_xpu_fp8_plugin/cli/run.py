# SPDX-License-Identifier: Apache-2.0
"""``vllm-xpu-fp8 run``: a program on a virtual Intel GPU."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from vllm_xpu_fp8_plugin import envs

_DESCRIPTION = """\
Runs a program whose Pythons see virtual Intel GPUs: torch.xpu has devices, and the
ops of vllm-xpu-kernels run as their own compiled code on the CPU, or in PyTorch
where that cannot. What vLLM the program starts runs on them too.

  vllm-xpu-fp8 run -- python my_xpu_script.py
  vllm-xpu-fp8 run -- pytest tests/test_fp8_quant.py
"""


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command's parser."""
    parser = subparsers.add_parser(
        "run",
        help="run a program on a virtual Intel GPU",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "program",
        nargs=argparse.REMAINDER,
        metavar="-- PROGRAM ...",
        help="the program and its arguments",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Take this process for the program.

    Returns:
        2 where it cannot be run; else it does not return.

    """
    program = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not program:
        return _fail("no program is given. Put it after --, as in: -- python script.py")
    # The environment's own python, pytest or vllm, as if it were activated.
    folder = str(Path(sys.executable).parent)
    path = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
    found = shutil.which(program[0], path=path)
    if found is None:
        return _fail(f"{program[0]} is not a program that can be found on PATH.")
    bootstrap = Path(__file__).parent.parent / "virtual_xpu" / "bootstrap"
    python_path = [str(bootstrap), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, python_path))
    os.environ[envs.PLUGIN.name] = envs.EMULATE
    os.environ["PATH"] = path
    try:
        os.execv(found, program)
    except OSError as e:
        return _fail(f"{found} cannot be run: {e.strerror}.")


def _fail(message: str) -> int:
    print(f"vllm-xpu-fp8 run: {message}", file=sys.stderr)
    return 2
