# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.terminal: texts from elsewhere, shown and not obeyed."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stranger import Stranger
from vllm_xpu_fp8_plugin.cli import doctor, main
from vllm_xpu_fp8_plugin.terminal import on_a_line, printable

SCRIPT = Path(sys.executable).parent / "vllm-xpu-fp8"
HOSTILE = (
    "\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m \x9b31mC1 \x1bc[bold]markup[/bold] "
    "\u202ebidi\u2066 bell\x07 back\x08 cr\rover \u2028line\x85 \x1bP+q\x1b\\ \udcff"
)
SHOWN = (
    "red C1 [bold]markup[/bold] \\u202ebidi\\u2066 bell\\x07 back\\x08 cr\\rover "
    "\\u2028line\\x85  \\udcff"
)


def test_escape_sequences_go_and_the_rest_is_written_out() -> None:
    """Catches a title, a colour, a move of the cursor or a line run backwards."""
    assert printable(HOSTILE) == SHOWN
    assert printable("a\n\tb é 漢字 😀") == "a\n\tb é 漢字 😀"
    assert on_a_line("a\nb\tc") == "a\\nb\tc"


@given(st.text())
def test_no_text_holds_what_a_terminal_obeys(text: str) -> None:
    """Catches a control or format character that gets through."""
    for character in printable(text):
        category = unicodedata.category(character)
        assert character in "\n\t" or category not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    printable(text).encode()


def config(folder: Path) -> str:
    """Write a model whose every text is hostile."""
    folder.mkdir()
    values = {
        "architectures": [HOSTILE],
        "model_type": HOSTILE,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_size": 64,
        "quantization_config": {"quant_method": HOSTILE},
    }
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)


@pytest.mark.slow
def test_a_strangers_texts_are_shown_by_doctor_and_modules_left_alone(
    tmp_path: Path,
) -> None:
    """Catches an escape sequence, markup or a new line of a config.json.

    And code that lies in the folder that the command is started in.
    """
    stranger = Stranger(tmp_path / "stranger")
    folder = config(stranger.folder / "\x1b[31m[bold]m\nok")
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    done = subprocess.run(
        [SCRIPT, "doctor", "--model", folder],
        cwd=stranger.folder,
        env={**env, "VLLM_XPU_FP8_PLUGIN": "emulate"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert stranger.has_run() == []
    assert done.returncode == 1, done.stderr
    printed = done.stdout
    assert not set(map(unicodedata.category, printed.replace("\n", ""))) & {"Cc", "Cf"}
    words = " ".join(printed.split())
    assert " ".join(SHOWN.split()) in words
    assert "vLLM resolves VirtualXPUPlatform" in words
    assert "[bold]m\\nok" in printed
    assert "\nok\n" not in printed


@pytest.mark.parametrize(
    ("command", "option"), [("doctor", "--model"), ("doctor", "--kernels")]
)
def test_a_hostile_name_is_shown_in_an_error(
    command: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a file's name, as a shell completes it, that a terminal obeys."""
    file = tmp_path / "\x1b[2J\x1b[31mname\nok"
    file.write_text("{}")
    assert main([command, option, str(file)]) == 2
    printed = capsys.readouterr().err
    assert "\x1b" not in printed
    assert len(printed.splitlines()) == 1
    assert "name\\nok" in printed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_the_terminal_will_do(encoding: str, tmp_path: Path) -> None:
    """Catches a traceback for what an encoding lacks, or a name that is no UTF-8."""
    name = os.fsencode(tmp_path) + b"/m\xff\xe9"
    done = subprocess.run(
        [SCRIPT, "doctor", "--model", name],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"m\\udcff\\udce9" in done.stderr


def test_interrupt_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback for Ctrl-C."""

    def interrupt(request: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run_checks", interrupt)
    assert main(["doctor"]) == 130
