# SPDX-License-Identifier: Apache-2.0
"""Runs ``vllm-xpu-fp8 verify`` as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).parent / "vllm-xpu-fp8"


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a user who has switched the virtual XPU on.

    A ``PYTHONPATH`` among `extra` comes before this checkout.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    path = [extra.pop("PYTHONPATH", ""), str(ROOT)]
    return {
        **env,
        "PYTHONPATH": ":".join(filter(None, path)),
        "VLLM_XPU_FP8_PLUGIN": "emulate",
        "COLUMNS": "80",
        **extra,
    }


def verify(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; `extra` are environment variables."""
    return subprocess.run(
        [str(COMMAND), "verify", *arguments],
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=400,
    )
