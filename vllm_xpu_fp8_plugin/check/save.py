# SPDX-License-Identifier: Apache-2.0
"""Calls in safetensors files: what was passed, in its strides and alignment."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check.call import Call, is_tensors, once
from vllm_xpu_fp8_plugin.check.layout import interleaved, joined

_ALIGNMENT = 512
# Recorded with values up to here; of larger tensors the form alone is kept.
LARGEST = 1 << 28


def write(call: Call, path: Path, more: dict[str, Tensor] | None = None) -> None:
    """Write a call; `more` are tensors beside its own."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    arguments = {n: _packed(n, v, tensors) for n, v in call.arguments.items()}
    between = {n: list(b) for n, b in interleaved(call.tensors()).items()}
    about = {
        "op": call.op,
        "between": between,
        "arguments": arguments,
        "host": sorted(call.host),
        "layers": list(call.layers),
        "count": call.count,
    }
    save_file({**tensors, **(more or {})}, path, {"call": json.dumps(about)})


def read(path: Path) -> Call:
    """Return the call in a file that `write` made."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["call"])
        arguments = {n: _unpacked(v, file) for n, v in about["arguments"].items()}
    for name, (other, distance) in about["between"].items():
        pair = joined(arguments[other], arguments[name], distance)
        arguments[other], arguments[name] = pair
    return Call(
        about["op"],
        arguments,
        frozenset(about["host"]),
        tuple(about["layers"]),
        about["count"],
    )


def placed(tensor: Tensor, stride: list[int], offset: int) -> Tensor:
    """Return the values in memory of these strides, from `offset` elements on."""
    steps = zip(tensor.shape, stride, strict=True)
    extent = 1 + sum((n - 1) * s for n, s in steps) if tensor.numel() else 0
    memory = torch.zeros(offset + extent, dtype=tensor.dtype)
    view = memory.as_strided(tensor.shape, stride, offset)
    place = once(view)
    place.copy_(tensor[tuple(slice(0, n) for n in place.shape)])
    return view


def _packed(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A new one: safetensors takes none that share memory.
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        shift = value.storage_offset() * value.itemsize % _ALIGNMENT
        return {
            "tensor": name,
            "stride": list(value.stride()),
            "offset": shift // value.itemsize,
        }
    if is_tensors(value):
        return [_packed(f"{name}.{i}", x, tensors) for i, x in enumerate(value)]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    return list(value) if isinstance(value, tuple) else value


def _unpacked(value: Any, file: Any) -> Any:
    if isinstance(value, dict) and "tensor" in value:
        tensor = file.get_tensor(value["tensor"])
        return placed(tensor, value["stride"], value["offset"])
    if isinstance(value, dict):
        return getattr(torch, value["dtype"])
    if isinstance(value, list):
        return [_unpacked(x, file) for x in value]
    return value
