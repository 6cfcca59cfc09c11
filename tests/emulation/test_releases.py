# SPDX-License-Identifier: Apache-2.0
"""The software XPU with other releases of the kernel package, none of them changed."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.doctor.packages import kernel_wheel
from vllm_xpu_fp8_plugin import kernels

ROOT = Path(__file__).parent.parent.parent
RELEASES = ["0.1.12.1", "0.1.13.2", "0.1.14.1", "0.1.15.4", "0.1.16.2"]

# Those that declare ops.
LIBRARIES = {"_C", "_moe_C", "_xpu_C", "_vllm_fa2_C"}

# What the Python layer calls, and what vLLM calls past it.
SUBJECTS = [
    "python_layer",
    "attention",
    "rotary",
    "norms",
    "activations",
    "fp8_gemm",
    "fp8_quant",
    "norm_quant",
    "act_quant",
    "cache",
    "mla_cache",
    "cache_copy",
]

# Arguments: the release, its folder, and pytest's.
RUN = """
import sys, importlib.metadata, pathlib, pytest, vllm_xpu_kernels
release, folder = sys.argv[1:3]
assert importlib.metadata.version("vllm-xpu-kernels") == release
assert pathlib.Path(vllm_xpu_kernels.__file__).is_relative_to(folder)
sys.exit(pytest.main(sys.argv[3:]))
"""


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack a kernel package's Python files and metadata, unchanged.

    Of its libraries, only the op schemas that they declare are kept.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith((".py", "/METADATA")):
                archive.extract(name, folder)
            elif Path(name).name.split(".")[0] in LIBRARIES:
                schemas = [
                    s.encode() for _, s in kernels.schemas_in(archive.read(name))
                ]
                assert schemas, name
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(b"\0" + b"\0".join(schemas) + b"\0")


# All of this suite runs with the one that is installed.
@pytest.mark.parametrize(
    "release", [r for r in RELEASES if r != version("vllm-xpu-kernels")]
)
def test_other_releases_run_unchanged(release: str, tmp_path: Path) -> None:
    """Catches an op that fits the schema, or the callers, of one release only."""
    unpack(kernel_wheel(release), tmp_path)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    files = [f"tests/emulation/test_{subject}.py" for subject in SUBJECTS]
    # Reads the attention kernels' library, which is not unpacked.
    options = ["-q", "-p", "no:cacheprovider", "-k", "not not_compiled"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, release, str(tmp_path), *options, *files],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
