# SPDX-License-Identifier: Apache-2.0
"""What the PyTorch ops need."""

import subprocess
import sys

IMPORT = """
import sys
from vllm_xpu_fp8_plugin import reference
assert reference.implementations()
print(*sys.modules)
"""


def test_the_pytorch_ops_need_pytorch_only() -> None:
    """Catches an op that is checked by what it checks, or that needs vLLM to run."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split())
    assert not modules & {"vllm", "vllm_xpu_kernels", "triton.runtime"}
    own = {m for m in modules if m.startswith("vllm_xpu_fp8_plugin.")}
    assert {m.split(".")[1] for m in own} == {"reference"}
