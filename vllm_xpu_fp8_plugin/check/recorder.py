# SPDX-License-Identifier: Apache-2.0
"""Notes every call of the kernel package's ops that a worker makes."""

import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_xpu_fp8_plugin.check import pages, save
from vllm_xpu_fp8_plugin.check.call import Call
from vllm_xpu_fp8_plugin.check.layout import interleaved, joined
from vllm_xpu_fp8_plugin.check.registry import NOT_COMPUTATIONS
from vllm_xpu_fp8_plugin.kernel_package import installed

# What is kept in all: values of recorded calls, in bytes.
MOST_BYTES = 4 << 30
# Calls of an op that are kept, beyond which others are only counted.
MOST_CALLS = 64
_OUTSIDE = "outside of the model"


class Recorder(TorchDispatchMode):
    """Keeps the arguments of each distinct call, on the CPU.

    torch calls it for every op, whoever makes the call; an op of another package may
    make calls of its own, for which it is called again.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder, self._rank = folder, rank
        self._layers: list[str] = []
        self._bytes = 0
        self._handles: list[Any] = []
        self._known: dict[str, str] = {}
        self._kept: dict[str, int] = {}
        self.calls: OrderedDict[str, dict[str, Any]] = OrderedDict()
        names = installed.op_schemas(installed.package_dir())
        self._ours = set(names) - NOT_COMPUTATIONS

    def watch(self, model: torch.nn.Module) -> None:
        """Have the layers of a model known by name while they run."""
        for name, module in model.named_modules():
            if not name:
                continue

            def enter(*_: Any, name: str = name) -> None:
                self._layers.append(name)

            def leave(*_: Any) -> None:
                if self._layers:
                    self._layers.pop()

            self._handles.append(module.register_forward_pre_hook(enter))
            self._handles.append(module.register_forward_hook(leave))

    def unwatch(self) -> None:
        """Take the hooks away and write how often each call was made."""
        for handle in self._handles:
            handle.remove()
        counts = {x["file"]: x for x in self.calls.values()}
        path = self._folder / f"rank{self._rank}.json"
        path.write_text(json.dumps(counts))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note a call of ours and make it."""
        kwargs = kwargs or {}
        name = func._schema.name
        if name in self._ours:
            self._note(name, func, args, kwargs)
            return _without_none(func(*args, **kwargs))
        keys = None if name.startswith("aten::") else _keys(func, args, kwargs)
        if keys is None:
            return func(*args, **kwargs)
        # An op such as vLLM's attention calls ours: its kernel runs with this mode
        # on, and is called past the mode, which would be asked again.
        with self:
            return func.redispatch(keys, *args, **kwargs)

    def _note(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        declared = [a.name for a in func._schema.arguments]
        call = Call(name, {**dict(zip(declared, args, strict=False)), **kwargs})
        key = call.key()
        layer = self._layers[-1] if self._layers else _OUTSIDE
        entry = self.calls.get(key)
        if entry is None:
            entry = self.calls[key] = {"file": "", "count": 0, "layers": []}
            if self._kept.get(name, 0) < MOST_CALLS and self._bytes < MOST_BYTES:
                self._kept[name] = self._kept.get(name, 0) + 1
                entry["file"] = self._keep(call)
        entry["count"] += 1
        if layer not in entry["layers"]:
            entry["layers"].append(layer)

    def _keep(self, call: Call) -> str:
        """Write the call's values as they are before it is made."""
        host = frozenset(n for n, t in call.tensors().items() if t.device.type == "cpu")
        small = pages.compact(call)
        arguments = {n: _on_host(v) for n, v in small.arguments.items()}
        for name, (other, distance) in interleaved(call.tensors()).items():
            pair = joined(arguments[other], arguments[name], distance)
            arguments[other], arguments[name] = pair
        self._bytes += sum(
            t.numel() * t.itemsize for t in Call(call.op, arguments).tensors().values()
        )
        op = re.sub(r"\W+", "_", call.op).strip("_")
        file = f"{op}-{len(self.calls):04d}-rank{self._rank}.safetensors"
        save.write(Call(call.op, arguments, host), self._folder / file)
        return file


def _keys(func: Any, args: Any, kwargs: Any) -> Any:
    """Return the dispatch keys of an op's own kernel, None if it has none there."""
    values = [*args, *kwargs.values()]
    tensors = [v for v in values if isinstance(v, Tensor) and v.device.type != "cpu"]
    if not tensors:
        return None
    key = torch._C._dispatch_key_for_device(tensors[0].device.type)
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if not (has(func.name(), key) or has(func.name(), "CompositeExplicitAutograd")):
        return None
    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))


def _on_host(value: Any) -> Any:
    if isinstance(value, Tensor):
        copy = value.detach().cpu()
        shift = value.storage_offset() * value.itemsize % 512 // value.itemsize
        return save.placed(copy, list(value.stride()), shift)
    if isinstance(value, list | tuple) and any(isinstance(x, Tensor) for x in value):
        return [_on_host(x) for x in value]
    return value


def _without_none(result: Any) -> Any:
    """Return a result with empty tensors for those that the op left undefined.

    Attention's log-sum-exp is one: Python shows None, which torch takes for no tensor.
    """
    if not isinstance(result, list):
        return result
    return [torch.empty(0) if tensor is None else tensor for tensor in result]
