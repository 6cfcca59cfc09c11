# SPDX-License-Identifier: Apache-2.0
"""`doctor` and `verify` end with the `check` line when they find something."""

import shlex
from pathlib import Path

import pytest

from vllm_xpu_fp8_plugin.cli import check, main
from vllm_xpu_fp8_plugin.cli.next_step import next_step
from vllm_xpu_fp8_plugin.verify import display, workflow
from vllm_xpu_fp8_plugin.verify import verdict as verdicts


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


@pytest.mark.parametrize("verdict", ["pass", "drift", "alarm"])
def test_verify_ends_with_it_unless_it_passes(
    verdict: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a verify that finds something and leaves the user there."""
    (tmp_path / "config.json").write_text("{}")
    arms = ({}, {}, False)
    monkeypatch.setattr(workflow, "both_arms", lambda *_: arms)
    monkeypatch.setattr(verdicts, "judge", lambda *_: {"verdict": verdict})
    for name in ("show", "draw"):
        monkeypatch.setattr(display, name, lambda *_: None)
    output = ["--output", str(tmp_path / "out")]
    status = main(["verify", "--model", str(tmp_path), *output])
    last = capsys.readouterr().out.splitlines()[-1]
    command = f"vllm-xpu-fp8 check --model {tmp_path} -- --quantization fp8"
    assert (status, last == command) == ((0, False) if verdict == "pass" else (1, True))
