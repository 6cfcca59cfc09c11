# SPDX-License-Identifier: Apache-2.0
"""Says in words what is wrong with an output: where, and why if something simple is."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check.call import Call
from vllm_xpu_fp8_plugin.check.expected import Expected, bound, compare
from vllm_xpu_fp8_plugin.check.registry import Spec

Change = tuple[str, dict[str, Any]]


def explained(
    call: Call,
    spec: Spec,
    name: str,
    got: Tensor,
    wrong: Tensor,
    wanted: Mapping[str, Expected],
) -> str:
    """Return what is wrong with the output `name`.

    Each hypothesis is a change of the arguments with which float64 gives what the op
    gave: that is then what the op did.
    """
    where = f"wrong {name} {region(wrong)}"
    for words, changes in _hypotheses(call, set(wanted)):
        try:
            other = spec.oracle(**{**call.arguments, **changes})[name]
            if _fits(got, other, wanted[name], wrong):
                return f"{words}: {where}"
        except (RuntimeError, LookupError, ValueError, TypeError, ArithmeticError):
            # The changed arguments do not fit each other.
            continue
    for words, other in _moved(wanted[name]):
        if _fits(got, other, wanted[name], wrong):
            return f"{words}: {where}"
    return f"{where}, {_example(got, wrong, wanted[name])}"


def region(mask: Tensor) -> str:
    """Say where a mask is true: everywhere, or in which rows and columns."""
    total, count = mask.numel(), int(mask.sum())
    if count == total:
        return "everywhere"
    places = mask.nonzero()
    parts = []
    for dim, size in enumerate(mask.shape):
        found = places[:, dim].unique()
        first, last = int(found[0]), int(found[-1])
        if size > 1 and (len(found) < size):
            span = str(first) if first == last else f"{first} to {last}"
            parts.append(f"{_dimension(dim, mask.dim())} {span} of {size}")
    where = ", ".join(parts)
    return f"in {count} of {total} elements" + (f" ({where})" if where else "")


def _dimension(dim: int, dims: int) -> str:
    if dims > 2:
        return f"dimension {dim}"
    return "column" if dim == dims - 1 and dims > 1 else "row"


def _example(got: Tensor, wrong: Tensor, expected: Expected) -> str:
    place = tuple(wrong.nonzero()[0].tolist())
    exact = expected.values[place].item()
    if expected.is_exact:
        return "which is not a copy of what it should be"
    if expected.written is not None and not bool(expected.written[place]):
        return "which should have stayed as it was"
    return f"e.g. {got[place].item():.6g} for {exact:.6g} at {list(place)}"


def _fits(got: Tensor, other: Expected, right: Expected, wrong: Tensor) -> bool:
    """Whether what is wrong is what `other` expects, and not what is right."""
    if other.values.shape != right.values.shape:
        return False
    # A place that is not to be written has no value to compare.
    found = compare(got, other, got).wrong
    if other.written is not None:
        found = found | ~other.written
    if bool((found & wrong).any()):
        return False
    if right.is_exact:
        return True
    # Of what hardly changes the result nothing can be said.
    dtype = got.dtype if right.dtype is None else right.dtype
    apart = (other.values - right.values).abs() > 2 * bound(right, dtype)
    return float(apart[wrong].float().mean()) > 0.5


def _hypotheses(call: Call, outputs: set[str]) -> Iterator[Change]:
    for name, value in call.arguments.items():
        if name in outputs and name not in ("input", "residual", "query", "key", "qkv"):
            continue
        if isinstance(value, Tensor) and name not in call.host:
            yield from _of_tensor(name, value)
        elif isinstance(value, bool):
            yield f"takes {name} for {not value}", {name: not value}
        elif isinstance(value, float) and value:
            yield f"ignores {name}", {name: 0.0}
        elif isinstance(value, int) and "window" in name and value >= 0:
            yield f"ignores {name}", {name: -1}
            yield f"is off by one in {name}", {name: value + 1}
            yield f"is off by one in {name}", {name: value - 1}
    pairs = (("k_scale", "v_scale"), ("key", "value"), ("cos", "sin"),
             ("q_weight", "k_weight"), ("weight", "bias"))  # fmt: skip
    for one, other in pairs:
        values = [call.arguments.get(x) for x in (one, other)]
        if all(isinstance(x, Tensor) for x in values):
            yield f"takes {other} for {one}", {one: values[1]}
            yield f"takes {one} for {other}", {other: values[0]}
            yield f"swaps {one} and {other}", {one: values[1], other: values[0]}


def _of_tensor(name: str, value: Tensor) -> Iterator[Change]:
    if "scale" in name and value.is_floating_point():
        yield from _of_scale(name, value)
    elif "weight" in name and value.is_floating_point() and value.dim() <= 2:
        yield f"ignores {name}", {name: torch.ones_like(value)}
        yield f"adds 1 to {name}", {name: (value.double() + 1)}
        yield from _of_channels(name, value)
    elif "bias" in name and value.numel():
        yield f"ignores {name}", {name: torch.zeros_like(value)}
        yield f"adds {name} twice", {name: value.double() * 2}
        yield from _of_channels(name, value)
    elif name.startswith("offsets"):
        yield f"ignores {name}", {name: None}
    elif name in ("residual", "softmax_sink"):
        nothing = None if name == "softmax_sink" else torch.zeros_like(value)
        yield f"ignores {name}", {name: nothing}
    elif name == "block_table":
        yield "is off by one page", {name: value.roll(-1, 1)}
        yield "is off by one page", {name: value.roll(1, 1)}
        yield "takes the first sequence's pages", {name: value[:1].expand_as(value)}
        yield "takes another sequence's pages", {name: value.roll(1, 0)}
    elif name == "slot_mapping":
        for by in (1, -1):
            moved = (value + by).where(value >= 0, value)
            yield "is off by one slot", {name: moved}
    elif name == "seqused_k":
        yield "does not see the last key", {name: (value - 1).clamp(min=0)}
        for page in (16, 64):
            yield "leaves out the last, partial page", {name: value // page * page}
    elif "position" in name:
        for by in (1, -1):
            yield f"is off by one in {name}", {name: (value + by).clamp(min=0)}
        yield f"takes {name} of the first token", {name: value[:1].expand_as(value)}
    elif name in ("input", "query", "key", "A"):
        yield from _of_input(name, value)


def _of_scale(name: str, value: Tensor) -> Iterator[Change]:
    exact = value.double()
    if name == "scale_ub":
        yield f"ignores {name}", {name: None}
        return
    yield f"ignores {name}", {name: torch.ones_like(exact)}
    yield f"applies {name} twice", {name: exact * exact}
    yield f"applies the inverse of {name}", {name: 1 / exact}
    yield from _of_channels(name, value)


def _of_channels(name: str, value: Tensor) -> Iterator[Change]:
    count = value.numel()
    if count < 2:
        return
    first = value.flatten()[:1].expand(count).reshape(value.shape)
    yield f"reads {name} of channel 0 for all {count}", {name: first}
    for dim in range(value.dim()):
        for by in (1, -1):
            yield f"is off by one in {name}", {name: value.roll(by, dim)}
    if value.dim() == 2 and min(value.shape) > 1:
        yield (
            f"takes the first row of {name} for all",
            {name: value[:1].expand_as(value)},
        )
        turned = value.reshape(value.shape[::-1]).t()
        yield f"takes {name} transposed", {name: turned}


def _of_input(name: str, value: Tensor) -> Iterator[Change]:
    if value.shape and value.shape[-1] % 2 == 0 and value.itemsize > 1:
        halves = value.chunk(2, dim=-1)
        yield f"swaps the halves of {name}", {name: torch.cat(halves[::-1], dim=-1)}


def _moved(expected: Expected) -> Iterator[tuple[str, Expected]]:
    """Yield the right values at wrong places, and with simple factors."""
    exact = expected.values

    def of(values: Tensor) -> Expected:
        return Expected(
            values,
            expected.dtype,
            expected.roundings,
            expected.error,
            expected.relative,
        )

    yield "writes zeros", of(torch.zeros_like(exact))
    if not expected.is_exact:
        for factor in (2.0, 0.5, -1.0):
            yield f"gives {factor:g} times the result", of(exact * factor)
    for dim, what in enumerate(("row", "column")):
        if exact.dim() > dim and exact.shape[dim] > 1:
            for by in (1, -1):
                yield f"is off by one {what}", of(exact.roll(by, dim))
    if exact.dim() > 1:
        yield "writes the first row to all", of(exact[:1].expand_as(exact))
