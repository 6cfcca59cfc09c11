# SPDX-License-Identifier: Apache-2.0
"""Writes a failing call as a script and its tensors, for those who keep the kernels."""

from pathlib import Path
from string import Template

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import save as saving
from vllm_xpu_fp8_plugin.check.call import Call
from vllm_xpu_fp8_plugin.check.expected import bound, held
from vllm_xpu_fp8_plugin.check.registry import Spec

_SCRIPT = Path(__file__).parent / "data" / "repro.py.txt"


def save(call: Call, spec: Spec, faults: list[str], folder: Path) -> None:
    """Write ``repro_<op>.py`` and ``.safetensors``, unless the op has them already."""
    name = "repro_" + call.op.replace("::", "_").strip("_")
    script = folder / f"{name}.py"
    if script.exists():
        return
    more: dict[str, Tensor] = {}
    for output, expected in spec.oracle(**call.arguments).items():
        if expected.dtype is not None:
            more[f"stored as.{output}"] = torch.empty(0, dtype=expected.dtype)
        if expected.is_exact:
            more[f"bits.{output}"] = expected.values.contiguous()
        else:
            stored = expected.dtype or _dtype(call, output)
            more[f"expected.{output}"] = held(expected, stored).contiguous()
            more[f"allowed.{output}"] = bound(expected, stored).contiguous()
        if expected.written is not None:
            more[f"written.{output}"] = expected.written.contiguous()
    saving.write(call, folder / f"{name}.safetensors", more)
    said = "\n".join(faults)
    text = Template(_SCRIPT.read_text()).substitute(
        op=call.op,
        faults=said.replace("\\", "").replace('"', "'"),
        file=f"{name}.safetensors",
        inplace=repr(sorted(spec.inplace)),
    )
    script.write_text(text)


def _dtype(call: Call, output: str) -> torch.dtype:
    value = call.arguments.get(output)
    if isinstance(value, Tensor):
        return value.dtype
    wanted = call.arguments.get("out_dtype")
    if isinstance(wanted, torch.dtype):
        return wanted
    kinds = [t.dtype for t in call.tensors().values() if t.dtype.itemsize == 2]
    return kinds[0] if kinds else torch.float16
