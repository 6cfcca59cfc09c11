# SPDX-License-Identifier: Apache-2.0
"""What `doctor` and `verify` say last when they have found something."""

import shlex
from collections.abc import Sequence

from vllm_xpu_fp8_plugin.terminal import on_a_line


def next_step(model: str | None, flags: Sequence[str]) -> str:
    """Return the `check` line to run next, below a line that says what for.

    Args:
        model: The model that was looked at, or None.
        flags: vLLM's engine flags.

    """
    command = ["vllm-xpu-fp8", "check"]
    if model:
        command += ["--model", model]
        command += ["--", *flags] if flags else []
    return f"Which kernel is it, on this device:\n{on_a_line(shlex.join(command))}"
