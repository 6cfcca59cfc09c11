# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, and what they measure holds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]

ON_A_CORE = {"encoder_dispatch": (), "startup": ("--rounds", "20")}


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


def assert_once(
    holds: Callable[[dict[str, Any]], bool],
    name: str,
    *arguments: str,
    first: dict[str, Any] | None = None,
) -> None:
    """Fail unless one of a few runs of a benchmark, or the first, is as it should be.

    Some are slow as a whole: the machine's other users take their share, and what
    they take is never negative.
    """
    found = [first] if first else []
    while not (found and holds(found[-1])):
        if len(found) == 4:
            pytest.fail(f"{name} took too long each time: {found}")
        found.append(benchmark(name, *arguments))


@pytest.fixture(scope="module")
def side_by_side() -> dict[str, dict[str, Any]]:
    """Run the benchmarks that take one core."""
    with ThreadPoolExecutor() as pool:
        runs = {
            name: pool.submit(benchmark, name, *ON_A_CORE[name]) for name in ON_A_CORE
        }
        return {name: run.result() for name, run in runs.items()}


def test_encoder_dispatch_is_at_least_eight_times_cheaper(
    side_by_side: dict[str, dict[str, Any]],
) -> None:
    """Catches host work that creeps into the encoder's hot path."""
    name = "encoder_dispatch"
    assert_once(lambda found: found["ratio"] >= 8, name, first=side_by_side[name])


def test_off_costs_less_than_a_millisecond(
    side_by_side: dict[str, dict[str, Any]],
) -> None:
    """Catches imports or work in every vLLM process of a user who has it off."""

    def holds(found: dict[str, Any]) -> bool:
        return bool(found["register_off_ms"] < 1 and found["ratio"] < 1.1)

    name = "startup"
    assert_once(holds, name, *ON_A_CORE[name], first=side_by_side[name])


def test_a_call_costs_microseconds_more_on_the_virtual_gpu() -> None:
    """Catches work that creeps into every op: a copy, a lookup, a wait."""

    def holds(found: dict[str, Any]) -> bool:
        calls = found["calls"]
        # Of a processor on which a call on the CPU takes more than a microsecond, more.
        slowness = max(1.0, calls["add_cpu_us"])
        aten, submitted = calls["aten_overhead_us"], calls["op_submitted_us"]
        return bool(aten <= 3 * slowness and submitted <= 15 * slowness)

    assert_once(holds, "virtual_gpu", "--only", "calls")


# Measured: 1.49 to 1.79, and 0.58 to 0.69 with so few tokens (0.68 to 0.88 with 32).
@pytest.mark.parametrize(("kind", "bar"), [("encoder", 1.2), ("decoder", 0.45)])
def test_fp8_keeps_up_with_transformers(kind: str, bar: float) -> None:
    """Catches a virtual XPU too slow to be of use.

    An encoder's compiled kernels also keep up with PyTorch in their place: a default
    that makes an engine slower than it needs to be.
    """
    arms = ["emulated_fp8", "transformers_fp32"]
    arms += ["emulated_fp8_in_pytorch"] if kind == "encoder" else []

    def holds(found: dict[str, Any]) -> bool:
        ratios = found[kind]
        in_pytorch = ratios.get("ratio_to_emulated_fp8_in_pytorch", 1)
        return bool(
            ratios["ratio_to_transformers_fp32"] >= bar and in_pytorch >= 1 / 1.3
        )

    size = ("--texts", "64") if kind == "encoder" else ("--tokens", "12")
    arguments = ("--only", kind, *size, "--rounds", "2", "--arms", *arms)
    assert_once(holds, "throughput", *arguments)
