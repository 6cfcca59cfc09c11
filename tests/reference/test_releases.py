# SPDX-License-Identifier: Apache-2.0
"""The virtual XPU with other releases of the kernel package, none of them changed."""

import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.doctor.packages import kernel_wheel

ROOT = Path(__file__).parents[2]

# Release -> how many of its ops are compiled code, in PyTorch, and missing.
RELEASES = {
    "0.1.12.1": (80, 15, 0),
    "0.1.13.2": (82, 15, 0),
    "0.1.14.1": (84, 22, 0),
    "0.1.15.4": (89, 22, 0),
    "0.1.16.2": (90, 22, 1),
}

# Compiled against PyTorch, and both against float64.
TESTS = [
    "test_compiled.py",
    "test_python_layer.py",
    "test_norms.py::test_rms_norm",
    "test_activations.py::test_gated_activations",
    "test_fp8_quant.py::test_dynamic_quantisation_of_tokens",
    "test_fp8_gemm.py::test_w8a16_is_right",
    "test_cache.py::test_keys_and_values_go_to_their_slots",
    "test_rotary.py::test_rotary_embedding",
    "test_attention.py::test_ragged_attention_is_right",
]

# Arguments: the release, its folder, the three counts, and pytest's.
RUN = """
import collections, importlib.metadata, pathlib, sys, pytest, vllm_xpu_kernels
from vllm_xpu_fp8_plugin import virtual_xpu
from vllm_xpu_fp8_plugin.virtual_xpu import ops
release, folder, *counts = sys.argv[1:6]
assert importlib.metadata.version("vllm-xpu-kernels") == release
assert pathlib.Path(vllm_xpu_kernels.__file__).is_relative_to(folder)
virtual_xpu.enable()
runs = collections.Counter(op.runs for op in ops.table().values())
got = [runs[kind] for kind in (ops.COMPILED, ops.REFERENCE, ops.MISSING)]
assert got == list(map(int, counts)), got
sys.exit(pytest.main(sys.argv[6:]))
"""


# All of this suite runs with the one that is installed.
@pytest.mark.parametrize(
    "release", [r for r in RELEASES if r != version("vllm-xpu-kernels")]
)
def test_other_releases_run_unchanged(release: str) -> None:
    """Catches an op that fits the schema, or the code, of one release only."""
    with tempfile.TemporaryDirectory() as folder:
        # 0.6 GB, and pytest would keep what lies in its own folder.
        with zipfile.ZipFile(kernel_wheel(release)) as archive:
            archive.extractall(folder)
        options = ["-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-c", RUN, release, folder]
            + [*map(str, RELEASES[release]), *options]
            + [f"tests/reference/{test}" for test in TESTS],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([folder, str(ROOT)])},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
