# SPDX-License-Identifier: Apache-2.0
"""Calls of the kernel package's ops on CPU tensors, however the op runs.

An op is run in PyTorch (`REFERENCE`) on the tensors as they are, or as it runs for XPU
tensors (`COMPILED`, where it is compiled code) on copies of the whole memory that the
tensors lie in: what is before, behind and between their elements is checked as well.
"""

import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from vllm_xpu_fp8_plugin import virtual_xpu
from vllm_xpu_fp8_plugin.kernel_package import installed
from vllm_xpu_fp8_plugin.virtual_xpu.ops import COMPILED, REFERENCE, table

virtual_xpu.enable()

HOW = (REFERENCE, COMPILED)

# Arguments that the real ops take on the host.
_ON_HOST = {
    "exponential_2d_": {"seeds"},
    "flash_attn_varlen_func": {"host_kv_lens"},
    "swap_blocks": {"block_mapping"},
    "topk_topp_sampler": {"seeds"},
}


# Written, though the schema does not say so.
_ALSO_WRITTEN = {"topk_topp_sampler": {"logits_to_return"}}


class Ops:
    """A namespace of ops, like those of `torch.ops`, for CPU tensors."""

    how = REFERENCE  # of all namespaces; the fixture `how` sets it

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return an op, or raise AttributeError if the installed package has it not."""
        packet = getattr(getattr(torch.ops, self._namespace), name)
        if Ops.how == REFERENCE:
            op: Callable[..., Any] = getattr(
                getattr(torch.ops, f"reference{self._namespace}"), name
            )
            return op
        if table()[f"{self._namespace}::{name}"].runs != COMPILED:
            pytest.skip(f"{name} is not compiled code here")
        return lambda *args, **kwargs: _run_compiled(packet.default, args, kwargs)


def op_or_function(ops: Ops, module: ModuleType, name: str) -> Callable[..., Any]:
    """Return an op, or its function in `module` where the package has no such op."""
    with contextlib.suppress(AttributeError):
        op: Callable[..., Any] = getattr(ops, name)
        return op
    if Ops.how == COMPILED:
        pytest.skip(f"the installed kernel package has no {name}")
    function: Callable[..., Any] = getattr(module, name)
    return function


# For what the kernel gets wrong, and PyTorch refuses or does right.
in_pytorch_only = pytest.mark.parametrize("how", [REFERENCE], indirect=True)


def release() -> tuple[int, ...]:
    """Return the version of the installed kernel package, in numbers."""
    return tuple(int(part) for part in installed.package_version().split("."))


def refused(message: str) -> Any:
    """Expect a refusal: with `message` in PyTorch, in words of its own if compiled."""
    if Ops.how == COMPILED:
        return pytest.raises((RuntimeError, IndexError))
    return pytest.raises(RuntimeError, match=message)


def unchecked(*values: Any) -> Any:
    """Mark a case that the compiled op takes, reading or writing what it should not."""
    return pytest.param(*values, marks=pytest.mark.unchecked)


def on_xpu(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `function` on XPU tensors in place of CPU tensors.

    Returns:
        What it returns, on the CPU: the tensors passed where it returns one of them.
        What it wrote is written to the tensors passed.

    """
    memory = _Memory()
    moved = [memory.move(a) for a in args]
    on_host = _ON_HOST.get(function.__name__, set())
    named = {k: v if k in on_host else memory.move(v) for k, v in kwargs.items()}
    result = function(*moved, **named)
    memory.bring_back()
    return memory.returned(result)


def _run_compiled(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    parameters = op._schema.arguments
    name = op._schema.name.split("::")[1]
    on_host = _ON_HOST.get(name, set())
    named = dict(zip([p.name for p in parameters], args, strict=False)) | kwargs
    memory = _Memory()
    moved = {k: v if k in on_host else memory.move(v) for k, v in named.items()}
    result = op(**moved)
    written = {p.name for p in parameters if p.alias_info and p.alias_info.is_write}
    written |= _ALSO_WRITTEN.get(name, set())
    memory.bring_back([value for key, value in named.items() if key in written])
    return memory.returned(result)


class _Memory:
    """The storages of CPU tensors, each with its copy on the XPU."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def move(self, value: Any) -> Any:
        """Return a tensor's copy: same strides, offset, and aliases of one memory."""
        if not isinstance(value, Tensor):
            return value
        host = _bytes(value)
        _, device = self._copies.setdefault(_key(value), (host, host.to("xpu")))
        moved = torch.empty(0, dtype=value.dtype, device="xpu")
        storage, offset = device.untyped_storage(), value.storage_offset()
        return moved.set_(storage, offset, value.shape, value.stride())

    def bring_back(self, written: list[Any] | None = None) -> None:
        """Copy the memory back; only that of the tensors `written` may have changed."""
        keys = None
        if written is not None:
            keys = {_key(t) for t in written if isinstance(t, Tensor)}
        for key, (host, device) in self._copies.items():
            if keys is None or key in keys:
                host.copy_(device)
            else:
                assert torch.equal(host, device.cpu()), "an input was written"

    def returned(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(self.returned(v) for v in value)
        if not isinstance(value, Tensor) or value.device.type == "cpu":
            return value
        for host, device in self._copies.values():
            if (
                value.untyped_storage().data_ptr()
                == device.untyped_storage().data_ptr()
            ):
                argument = torch.empty(0, dtype=value.dtype)
                return argument.set_(
                    host.untyped_storage(),
                    value.storage_offset(),
                    value.shape,
                    value.stride(),
                )
        return value.cpu()


def _bytes(tensor: Tensor) -> Tensor:
    """Return all of the memory that a tensor lies in."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def _key(tensor: Tensor) -> int:
    # Of storages without memory, each is its own.
    storage = tensor.untyped_storage()
    return storage.data_ptr() or id(tensor)
