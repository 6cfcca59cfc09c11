# SPDX-License-Identifier: Apache-2.0
"""Runs a module of the tests with each op that has compiled code in it.

A process of its own: `VLLM_XPU_FP8_VIRTUAL_OPS=compiled` is for a process's whole life.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.packages import once
from vllm_xpu_fp8_plugin import envs


def printed(
    factory: pytest.TempPathFactory, module: str, *arguments: str, **environ: str
) -> Any:
    """Return the JSON that ``python -m MODULE`` prints, run once for all workers.

    The first time its kernels are compiled.
    """

    def run() -> Any:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=Path(__file__).parents[2],
            env={**os.environ, envs.VIRTUAL_OPS.name: envs.COMPILED, **environ},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout)

    gpu = environ.get(envs.VIRTUAL_GPU.name, "")
    return once(factory, "-".join([module, *arguments, gpu]), run)
