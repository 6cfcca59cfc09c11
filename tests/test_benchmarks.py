# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, and what they measure holds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def benchmark(name: str, *arguments: str) -> dict[str, Any]:
    """Run ``benchmarks/NAME.py --json`` and return what it printed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM", "OMP"))}
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", "--json", *arguments],
        cwd=Path(__file__).parent.parent,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_encoder_dispatch_is_at_least_eight_times_cheaper() -> None:
    """Catches host work that creeps into the encoder's hot path."""
    result = benchmark("encoder_dispatch")
    assert set(result) == {"upstream_us", "plugin_us", "ratio"}
    assert result["ratio"] >= 8


def test_off_costs_less_than_a_millisecond() -> None:
    """Catches imports or work in every vLLM process of a user who has it off."""
    result = benchmark("startup", "--rounds", "3")
    assert result["register_off_ms"] < 1
    # Three rounds do not resolve a per cent; fifteen gave the documentation's figure.
    assert result["ratio"] < 1.1


def test_a_call_costs_microseconds_more_on_the_virtual_gpu() -> None:
    """Catches work that creeps into every op: a copy, a lookup, a wait."""
    found = []
    # Some processes are slow as a whole: the machine's other users take their share.
    for _ in range(5):
        calls = benchmark("virtual_gpu", "--only", "calls")["calls"]
        found.append(calls)
        # Of a processor on which a call on the CPU takes more than a microsecond, more.
        slowness = max(1.0, calls["add_cpu_us"])
        if (
            calls["aten_overhead_us"] <= 3 * slowness
            and calls["op_submitted_us"] <= 15 * slowness
        ):
            return
    pytest.fail(f"an aten call or an op takes too long: {found}")


def test_compiled_kernels_keep_up_with_pytorch() -> None:
    """Catches a default that makes an engine slower than it needs to be."""
    # Start-up is not asked about.
    arguments = ("--only", "encoder", "--texts", "64", "--rounds", "2", "--warm")
    encoder = benchmark("virtual_gpu", *arguments)["encoder"]
    assert encoder["time_ratio"] <= 1.3


def test_fp8_keeps_up_with_transformers() -> None:
    """Catches a virtual XPU too slow to be of use."""
    result = benchmark("throughput", "--texts", "192", "--rounds", "2")
    for kind in ("encoder", "decoder"):
        assert {"emulated_fp8", "transformers_fp32"} <= set(result[kind])
    # Measured: 1.64 to 1.79 and 0.75 to 0.82; less where something else takes the
    # processor's caches.
    assert result["encoder"]["ratio_to_transformers_fp32"] >= 1.2
    assert result["decoder"]["ratio_to_transformers_fp32"] >= 0.6
