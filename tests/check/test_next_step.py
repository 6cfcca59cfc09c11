# SPDX-License-Identifier: Apache-2.0
"""`doctor` and `verify` end with the `check` line when they find something."""

import shlex

from vllm_xpu_fp8_plugin.cli import check
from vllm_xpu_fp8_plugin.cli.next_step import next_step


def parsed(line: str) -> "check.argparse.Namespace":
    parser = check.argparse.ArgumentParser()
    check.add_parser(parser.add_subparsers())
    return parser.parse_args(shlex.split(line)[1:])


def test_line_is_a_command_that_check_takes() -> None:
    """Catches a line that the command refuses, or that loses the engine's flags."""
    flags = ["--quantization", "fp8", "--tensor-parallel-size", "2"]
    said, line = next_step("a folder/model", flags).splitlines()
    args = parsed(line)
    assert said.startswith("Which kernel")
    assert args.model == "a folder/model" and args.flags == flags
    assert parsed(next_step(None, []).splitlines()[1]).model is None


def test_a_model_s_name_gives_no_orders() -> None:
    """Catches a name that a terminal or a shell obeys."""
    line = next_step("m\x1b[31m; rm -rf ~", []).splitlines()[1]
    assert "\x1b" not in line
    assert shlex.split(line)[3].endswith("; rm -rf ~")
