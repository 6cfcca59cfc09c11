# SPDX-License-Identifier: Apache-2.0
"""What a kernel may do in place of what it should.

Each calls the real op on the device, with changed arguments or with changes to what it
wrote.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Op = Callable[..., Any]
Faulty = Callable[[Op, dict[str, Any]], Any]

_calls = itertools.count()


class PutIn(NamedTuple):
    """A fault.

    Attributes:
        op: Where it is put.
        run: Makes the call.
        kind: Which kind of fault is to be found.
        words: What is to be said of it.
        where: Which calls of the catalogue it shows in.

    """

    op: str
    run: Faulty
    kind: str
    words: str
    where: Callable[[dict[str, Any]], bool] = lambda arguments: True


def changed(**changes: Callable[[Any], Any]) -> Faulty:
    """Return a fault that gives the op other arguments."""

    def run(op: Op, arguments: dict[str, Any]) -> Any:
        new = {name: change(arguments[name]) for name, change in changes.items()}
        return op(**{**arguments, **new})

    return run


def swapped(one: str, other: str) -> Faulty:
    def run(op: Op, arguments: dict[str, Any]) -> Any:
        pair = {one: arguments[other], other: arguments[one]}
        return op(**{**arguments, **pair})

    return run


def unwritten(output: str, part: Any) -> Faulty:
    """Return a fault that leaves a part of an output as it was."""

    def run(op: Op, arguments: dict[str, Any]) -> Any:
        before = arguments[output][part].clone()
        result = op(**arguments)
        arguments[output][part] = before
        return result

    return run


def behind(op: Op, arguments: dict[str, Any]) -> None:
    """Write a vector more than there is."""
    op(**arguments)
    result = arguments["result"]
    end = result.storage_offset() + result.numel()
    result.as_strided((8,), (1,), end).fill_(1.0)


def before(op: Op, arguments: dict[str, Any]) -> None:
    op(**arguments)
    result = arguments["result"]
    result.as_strided((1,), (1,), result.storage_offset() - 1).fill_(1.0)


def input_changed(op: Op, arguments: dict[str, Any]) -> None:
    """Norm in place, and copy."""
    op(**arguments)
    arguments["input"][0] = arguments["result"][0]


def race(op: Op, arguments: dict[str, Any]) -> None:
    """Read what another submission has written every other time."""
    op(**arguments)
    if next(_calls) % 2:
        result = arguments["result"]
        result[1] = torch.nextafter(result[1], result[1] + 1)


def neighbour(op: Op, arguments: dict[str, Any]) -> None:
    """Take another path for a token where the token before it is small."""
    op(**arguments)
    result, x = arguments["result"], arguments["input"]
    larger = torch.nextafter(result[1:], result[1:] + 1)
    result[1:] = torch.where(x[:-1, :1] > 0, larger, result[1:])


def no_stride(op: Op, arguments: dict[str, Any]) -> Any:
    """Take rows to follow each other without gaps."""
    x = arguments["input"]
    strides = (x.shape[1], 1)
    return op(**{**arguments, "input": x.as_strided(x.shape, strides)})


def transposed(op: Op, arguments: dict[str, Any]) -> Any:
    scale = arguments["B_scale_"]
    turned = scale.reshape(scale.shape[::-1]).t().contiguous()
    return op(**{**arguments, "B_scale_": turned})


def first(x: Tensor) -> Tensor:
    return x.flatten()[:1].expand(x.numel()).reshape(x.shape).contiguous()


def has(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda arguments: isinstance(arguments.get(name), Tensor)


def many(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda a: isinstance(a.get(name), Tensor) and a[name].numel() > 1


def has_values(**values: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda a: all(a.get(name) == value for name, value in values.items())


def gaps(arguments: dict[str, Any]) -> bool:
    x = arguments["input"]
    return x.shape[0] > 1 and x.stride(0) > x.shape[1]


def floats(arguments: dict[str, Any]) -> bool:
    return bool(arguments["result"].dtype == torch.float32)
