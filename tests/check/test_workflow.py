# SPDX-License-Identifier: Apache-2.0
"""How the process that makes the calls may end."""

from pathlib import Path

import pytest

from vllm_xpu_fp8_plugin.check.workflow import _how_it_ended


@pytest.mark.parametrize(
    ("message", "log", "words"),
    [
        # faulthandler's line, and more frames than the message has room for.
        (
            "status 1. The end:",
            "Timeout (0:15:00)!\n" + "  File\n" * 40,
            "does not end",
        ),
        ("ended by signal 8. The end:", "Fatal Python error", "by SIGFPE"),
        ("status 1. The end:", "torch says: Timeout of 5 s", ""),
    ],
)
def test_a_call_that_does_not_end_is_told_apart(
    message: str, log: str, words: str, tmp_path: Path
) -> None:
    """Catches a hang in an op that ends the whole run without a report."""
    path = tmp_path / "replay.log"
    path.write_text(log)
    found = _how_it_ended(message, path)
    assert words in found if words else not found
