# SPDX-License-Identifier: Apache-2.0
"""An engine whose FP8 product of one shape ignores its scale; for `run_engine`."""

import json
from pathlib import Path
from typing import Any

import torch

OP = "_xpu_C::fp8_gemm_w8a16"


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Start the engine, record its calls and replay them, all with the fault in place.

    Args:
        request: ``llm``, ``width`` (columns of the weight that the fault needs, 0 for
            none), and ``folder``.

    Returns:
        ``error`` (why the engine did not start, or None), ``faults`` (op, layers,
        words of each call that is wrong), ``calls`` (op and layers of all) and
        ``said`` (what the guard logged).

    """
    from vllm import LLM

    _put_in(request["width"])
    from vllm_xpu_fp8_plugin.check import guard

    said: list[str] = []
    # vLLM sets up logging anew when it starts.
    guard.logger.info = lambda message, *values: said.append(message % values)
    try:
        llm = LLM(**request["llm"])
    except RuntimeError as e:
        return {"error": str(e)}
    from vllm_xpu_fp8_plugin.check import device, record_arm, registry, replay, save

    folder = Path(request["folder"]) / "calls"
    folder.mkdir()
    llm.collective_rpc(record_arm.start, args=(str(folder),))
    llm.embed(
        [{"prompt_token_ids": [101, *range(2000, 2000 + n), 102]} for n in (3, 9)]
    )
    llm.collective_rpc(record_arm.stop)
    noted = json.loads((folder / "rank0.json").read_text())
    xpu = device.ready("xpu")
    calls, faults = [], []
    for path in sorted(folder.glob("*.safetensors")):
        call = save.read(path)
        layers = noted[path.name]["layers"]
        calls.append([call.op, layers])
        with torch.inference_mode():
            found = replay.judge(call, registry.specs()[call.op], xpu).faults
        faults += [[call.op, layers, fault.words] for fault in found]
    return {"error": None, "calls": calls, "faults": faults, "said": said}


def _put_in(width: int) -> None:
    from vllm_xpu_fp8_plugin import reference
    from vllm_xpu_fp8_plugin.virtual_xpu import ops

    real = reference.implementations()[OP]

    def ignores_scale(A: Any, B: Any, B_scale_: Any = None, bias_: Any = None) -> Any:
        wrong = B.shape[1] == width
        return real(A, B, torch.ones(1) if wrong else B_scale_, bias_)

    ops.substitute(OP, ignores_scale, "faulty")
