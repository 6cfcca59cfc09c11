# SPDX-License-Identifier: Apache-2.0
"""Values for arguments: those of the catalogue, and those of the variants of a call."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check.call import Call, is_tensors
from vllm_xpu_fp8_plugin.check.registry import Spec

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
HALVES = (torch.float16, torch.bfloat16)
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

# Tokens and width: usual, one token, more rows than a group of lanes, widths that no
# vector divides, no token at all.
SHAPES = ((7, 2048), (1, 896), (300, 64), (3, 129), (0, 128))

AS_GIVEN, SUBNORMAL = "as given", "subnormal"
VARIANTS = (AS_GIVEN, "random", "large", "tiny", "zero", SUBNORMAL)

_seed = torch.Generator()


def seed(number: int) -> None:
    """Begin the numbers anew."""
    _seed.manual_seed(number)


def normal(*shape: int, dtype: torch.dtype, size: float = 1.0) -> Tensor:
    """Return normal values times `size`; of FP8 within what it holds."""
    values = size * torch.randn(shape, generator=_seed)
    return values.to(dtype)


def rows(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return rows of several magnitudes, the last one of zeros if there are two."""
    values = torch.randn(shape, generator=_seed)
    if len(values) > 1:
        size = torch.logspace(-2, 1, len(values))
        values *= size.view(-1, *[1] * (len(shape) - 1))
        values[-1] = 0.0
    return values.to(dtype)


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return an output: what it holds is poison when it is used."""
    return torch.zeros(shape, dtype=dtype)


def positive(*shape: int, low: float = 0.01, high: float = 0.1) -> Tensor:
    """Return float32 values between two bounds, for scales."""
    return low + (high - low) * torch.rand(shape, generator=_seed)


def integers(*shape: int, below: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return random integers from 0 to ``below - 1``."""
    return torch.randint(below, shape, generator=_seed, dtype=dtype)


def distinct(count: int, below: int) -> Tensor:
    """Return `count` different integers from 0 to ``below - 1``, int64."""
    return torch.randperm(below, generator=_seed)[:count]


def with_gaps(tensor: Tensor, gap: int = 8) -> Tensor:
    """Return the values with `gap` elements left out behind each row."""
    wide = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + gap, dtype=tensor.dtype)
    view = wide[..., : tensor.shape[-1]]
    view.copy_(tensor)
    return view


def variants(call: Call, spec: Spec) -> Iterator[tuple[str, Call]]:
    """Yield the call with its own values, and with others for what may vary."""
    yield AS_GIVEN, call
    chosen = {
        name: call.arguments[name]
        for name in spec.vary
        if call.arguments.get(name) is not None
    }
    if not any(t.numel() for t in Call(call.op, chosen).tensors().values()):
        return
    narrow = any(
        t.dtype not in (torch.float32, torch.bfloat16)
        for t in Call(call.op, chosen).tensors().values()
    )
    for variant in VARIANTS[1:]:
        # What float32 has too few bits for may be taken for zero.
        if not chosen or (variant == SUBNORMAL and not narrow):
            return
        changed = {
            name: (
                [varied(x, variant, spec.largest) for x in value]
                if is_tensors(value)
                else varied(value, variant, spec.largest)
            )
            for name, value in chosen.items()
        }
        yield variant, call.with_arguments(**changed)


def with_row(values: Tensor, sign: int, tensor: Tensor, row: int) -> Tensor:
    """Return `values` times `sign`, with a row of `tensor`, in its strides."""
    result = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    result.copy_((values.float() * sign).to(values.dtype))
    result[row] = tensor[row]
    return result


def varied(tensor: Tensor, variant: str, largest: float) -> Tensor:
    """Return a tensor of the same form with other values.

    Args:
        tensor: Of a floating type, or uint8, which is taken for FP8.
        variant: One of `VARIANTS`.
        largest: The largest value.

    """
    dtype = E4M3 if tensor.dtype == torch.uint8 else tensor.dtype
    info = torch.finfo(dtype)
    noise = torch.randn(tensor.shape, generator=_seed)
    if variant == "random":
        values = noise * (4.0 if dtype.itemsize == 1 else 1.0)
    elif variant == "large":
        values = (noise / 4).clamp(-1, 1) * min(largest, info.max / 2)
    elif variant == "tiny":
        values = noise * math.sqrt(info.smallest_normal * min(1.0, info.eps * 8))
    elif variant == "zero":
        values = noise * 0.0
    else:
        step = info.smallest_normal * info.eps
        values = noise.sign() * (noise.abs() * 3).ceil() * step
    made = values.clamp(info.min, info.max).to(dtype).view(tensor.dtype)
    result = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    result.copy_(made)
    return result
