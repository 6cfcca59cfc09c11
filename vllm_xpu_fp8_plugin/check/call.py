# SPDX-License-Identifier: Apache-2.0
"""A call of an op of the kernel package: what was passed, and from where."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

_SHORT = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
}


@dataclass(frozen=True)
class Call:
    """A call of an op.

    Attributes:
        op: ``namespace::name``.
        arguments: By name, all that the op takes or those that are not its defaults;
            tensors are on the CPU, in the strides of the call.
        host: Arguments whose tensors stay on the CPU.
        layers: The modules of the model that made it, if a model did.
        count: How often they made it.

    """

    op: str
    arguments: dict[str, Any]
    host: frozenset[str] = frozenset()
    layers: tuple[str, ...] = field(default=(), compare=False)
    count: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return the arguments that are tensors; those of a list as ``name.0``."""
        found: dict[str, Tensor] = {}
        for name, value in self.arguments.items():
            if isinstance(value, Tensor):
                found[name] = value
            elif is_tensors(value):
                found |= {f"{name}.{i}": x for i, x in enumerate(value)}
        return found

    def with_arguments(self, **changes: Any) -> "Call":
        """Return the call with other values for some arguments."""
        return replace(self, arguments={**self.arguments, **changes})

    def key(self) -> str:
        """Return what makes a call distinct: shapes, strides, types, other values."""
        parts = [self.op]
        for name, value in sorted(self.arguments.items()):
            parts.append(f"{name}={_key(value)}")
        return " ".join(parts)

    def described(self) -> str:
        """Return the call in words, for a table: shapes and other values."""
        shown = []
        for name, value in self.arguments.items():
            if value is None or (isinstance(value, bool) and not value):
                continue
            shown.append(f"{name} {_shown(value)}")
        return ", ".join(shown)


def is_tensors(value: Any) -> bool:
    """Whether a value is a list of tensors, such as the weights of LoRA adapters."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(x, Tensor) for x in value)
    )


def once(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that has each place in memory once.

    An expanded tensor, such as the scale that vLLM passes for every head, has one
    place for many elements.
    """
    first = [slice(0, 1) if s == 0 else slice(None) for s in tensor.stride()]
    return tensor[tuple(first)]


def short(dtype: torch.dtype) -> str:
    """Return a short name of a type."""
    name = str(dtype).removeprefix("torch.")
    return _SHORT.get(name, name)


def operator(op: str) -> Any:
    """Return torch's operator of ``namespace::name``, None if it is not there."""
    namespace, name = op.split("::")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    return None if packet is None else packet.default


def complete(call: Call) -> Call | None:
    """Return the call with what the installed op takes, None where it cannot be made.

    Releases differ in arguments: those that an op lacks are dropped where they ask
    for nothing, those that a call lacks get their defaults, or None.
    """
    op = operator(call.op)
    if op is None:
        return None
    taken = {a.name: a for a in op._schema.arguments}
    arguments = {}
    for name, value in call.arguments.items():
        if name in taken:
            arguments[name] = value
        elif isinstance(value, Tensor) or value:
            return None
    for name, argument in taken.items():
        if name not in arguments and not argument.has_default_value():
            if "Optional" not in str(argument.type):
                return None
            arguments[name] = None
    return Call(call.op, arguments, call.host, call.layers, call.count)


def _key(value: Any) -> str:
    if isinstance(value, Tensor):
        strides = tuple(
            s if n > 1 else 0 for s, n in zip(value.stride(), value.shape, strict=True)
        )
        return f"{value.dtype}{tuple(value.shape)}{strides}"
    if is_tensors(value):
        return "[" + ", ".join(map(_key, value)) + "]"
    return repr(value)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = "x".join(map(str, value.shape)) or "scalar"
        gaps = "" if value.is_contiguous() else f" strides {tuple(value.stride())}"
        return f"{shape} {short(value.dtype)}{gaps}"
    if is_tensors(value):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
