# SPDX-License-Identifier: Apache-2.0
"""``vllm-xpu-fp8 check`` on a virtual Intel GPU."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.reference.ops import release

ROOT = Path(__file__).parent.parent.parent
COMMAND = Path(sys.executable).parent / "vllm-xpu-fp8"
ENVIRON = {**os.environ, "VLLM_XPU_FP8_PLUGIN": "emulate", "COLUMNS": "80"}


def check(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(COMMAND), "check", *arguments],
        env={**ENVIRON, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_sound_ops_pass(tmp_path: Path) -> None:
    """Catches an alarm on sound kernels, lines too wide, and files not written."""
    done = check("--ops", "*gelu_*", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "PASS: 5 ops compute what they should" in done.stdout
    assert "_C::gelu_tanh_and_mul" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert (tmp_path / "check.png").read_bytes()[:4] == b"\x89PNG"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "pass" and not list(tmp_path.glob("repro_*"))
    schema = json.loads((ROOT / "docs" / "check.schema.json").read_text())
    jsonschema.validate(report, schema)


def test_a_kernel_that_ends_the_process_is_named(tmp_path: Path) -> None:
    """Catches a crash that takes the check along, and calls after it left out."""
    done = check("--ops", "*::rotary_embedding", "--output", str(tmp_path), "--json")
    report = json.loads(done.stdout)
    schema = json.loads((ROOT / "docs" / "check.schema.json").read_text())
    jsonschema.validate(report, schema)
    (op,) = report["ops"]
    (fault,) = op["faults"]
    assert done.returncode == 1
    assert fault["kind"] == "crash" and "SIGFPE" in fault["words"]
    assert "positions 0 int64" in fault["call"] and fault["calls"] == 3
    assert op["made"] > 50


def test_repro_runs_with_torch_and_the_kernels_alone(tmp_path: Path) -> None:
    """Catches a script that does not run, or does not show what is wrong."""
    done = check("--ops", "*rms_norm_per_block_quant", "--output", str(tmp_path))
    assert done.returncode == 1
    assert "ignores scale_ub" in done.stdout
    (script,) = tmp_path.glob("repro_*.py")
    assert not re.search("plugin|safetensors.torch", script.read_text())
    run = [str(COMMAND), "run", "--", "python", str(script)]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    wrong = re.findall(r"(\w+): (\d+) of (\d+) elements wrong", shown)
    assert {name for name, count, _ in wrong if int(count)} == {"result", "scale"}
    # The file is what other programs of the format read as well.
    data = next(tmp_path.glob("repro_*.safetensors")).read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["expected.scale"]["dtype"] == "F64"


def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    """Catches a traceback, and a pass of nothing."""
    for arguments, message in (
        (("--ops", "no_such_op"), "no op of vllm-xpu-kernels matches"),
        (("--device", "cpu"), "has ops for an xpu only"),
        (("--model", "./nowhere"), "no such folder"),
        (("--", "--max-model-len", "9"), "engine flags need --model"),
    ):
        done = check("--output", str(tmp_path), *arguments)
        assert done.returncode == 2 and message in done.stderr, arguments
        assert "Traceback" not in done.stdout
    done = check("--output", str(tmp_path), VLLM_XPU_FP8_PLUGIN="off")
    assert done.returncode == 2 and "torch has no device xpu" in done.stderr


@pytest.mark.slow
def test_calls_of_a_model_pass(minilm: str, tmp_path: Path) -> None:
    """Catches an engine that does not start, calls without layers, a false alarm."""
    arguments = ("--model", minilm, "--output", str(tmp_path), "--json")
    done = check(*arguments, "--", "--quantization", "fp8", "--max-model-len", "128")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    schema = json.loads((ROOT / "docs" / "check.schema.json").read_text())
    jsonschema.validate(report, schema)
    assert report["engine"]["quantization"] == "fp8"
    by_op = {op["op"]: op for op in report["ops"]}
    # Attention is its own code here, which the engine's default is not.
    assert {name: op["runs_as"] for name, op in by_op.items()} == {
        "_xpu_C::fp8_gemm_w8a16": "reference",
        "_vllm_fa2_C::varlen_fwd": "compiled",
    }
    assert all(op["made"] for op in report["ops"])


def test_page_shows_what_is_printed(tmp_path: Path) -> None:
    """Catches a transcript in docs/check.md that the command no longer prints."""
    done = check("--ops", "_C::rms_norm*", "--output", str(tmp_path))
    assert done.returncode == 1
    page = (ROOT / "docs" / "check.md").read_text()
    shown = page.split("with vllm-xpu-kernels 0.1.14.1:\n\n```text\n")[1]
    lines = shown.split("```")[0].splitlines()
    # The number of units in the last place is the processor's.
    words = [re.sub(r" \d+\.\d ", " ", x).split() for x in done.stdout.splitlines()]
    if release() == (0, 1, 14, 1):
        for line in lines:
            assert line == "..." or re.sub(r" \d+\.\d ", " ", line).split() in words
