# SPDX-License-Identifier: Apache-2.0
"""Faults for a running engine, by what is wrong, where and how much.

`faults` puts the ops in place that ask `ATTENTION` and `CACHE` what to do; `LAYERS`
change the linear layers of a worker. A fault's name is "kind, place, strength".
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch

# Of the layers in the middle of a model, by their names.
_ONE = "layers.2.", "layer.2."
_HEAD_SIZE = 32
_PAGE = 64

Change = Callable[..., None]


def _scaled(strength: float, place: str) -> Callable[[Any], None]:
    """Return what multiplies the products of linear layers, without their bias."""

    def change(worker: Any) -> None:
        for name, module in _linear(worker):
            if place != "all layers" and not any(x in f"{name}." for x in _ONE):
                continue
            if place in ("one channel", "one head") and "qkv" not in name:
                continue
            width = {"one channel": 1, "one head": _HEAD_SIZE}.get(place)
            hook = module.register_forward_hook(_multiply(strength, width))
            worker.__dict__.setdefault("hooks", []).append(hook)

    return change


def _multiply(strength: float, width: int | None) -> Callable[..., Any]:
    def hook(module: Any, inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        bias = getattr(module, "bias", None)
        product = first if bias is None else first - bias
        part = slice(None) if width is None else slice(width, 2 * width)
        changed = product.float()
        changed[..., part] *= strength
        changed = changed if bias is None else changed + bias
        # As the kernel would: what half precision cannot hold is infinite.
        changed = changed.to(first.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _linear(worker: Any) -> list[tuple[str, Any]]:
    from vllm.model_executor.layers.linear import LinearBase

    modules = worker.model_runner.model.named_modules()
    return [(name, m) for name, m in modules if isinstance(m, LinearBase)]


def restore(worker: Any) -> None:
    # What was changed twice was first as it shall be.
    for hook in reversed(worker.__dict__.pop("hooks", [])):
        hook.remove()


LAYERS: dict[str, Callable[[Any], None]] = {
    f"weight scale, {place}, x{strength:g}": _scaled(strength, place)
    for place, strengths in (
        ("all layers", (1.02, 1.1, 2, 448)),
        ("one layer", (1.02, 1.1, 2, 448)),
        ("one head", (1.1, 2, 448)),
        ("one channel", (1.1, 2, 448)),
    )
    for strength in strengths
}


def _softmax_scale(strength: float) -> Change:
    def change(kwargs: dict[str, Any]) -> None:
        kwargs["softmax_scale"] = kwargs["softmax_scale"] * strength

    return change


def _descale(name: str, strength: float) -> Change:
    def change(kwargs: dict[str, Any]) -> None:
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name] * strength

    return change


def _mask(kwargs: dict[str, Any]) -> None:
    kwargs["is_causal"] = not kwargs["is_causal"]


def _window(kwargs: dict[str, Any]) -> None:
    kwargs["window_size_left"] = 16


def _second_page(kwargs: dict[str, Any]) -> None:
    """Read the first page in the place of the second."""
    table = kwargs.get("block_table")
    if table is not None:
        table = table.clone()
        table[:, 1:2] = table[:, :1]
        kwargs["block_table"] = table
        return
    for name in ("k", "v"):
        changed = kwargs[name].clone()
        for start, end in itertools.pairwise(kwargs["cu_seqlens_k"].tolist()):
            size = max(0, min(_PAGE, end - start - _PAGE))
            second = slice(start + _PAGE, start + _PAGE + size)
            changed[second] = kwargs[name][start : start + size]
        kwargs[name] = changed


def _last_key(kwargs: dict[str, Any]) -> None:
    """Read a cache that ends one token early."""
    lengths = kwargs.get("seqused_k")
    if lengths is not None:
        kwargs["seqused_k"] = torch.clamp(lengths - 1, min=1).to(lengths.dtype)


def _heads_swapped(kwargs: dict[str, Any]) -> None:
    kwargs["q"] = kwargs["q"][:, [1, 0, *range(2, kwargs["q"].shape[1])]].contiguous()


# Changes of the arguments of an attention call.
ATTENTION: dict[str, Change] = {
    **{
        f"softmax scale, all layers, x{x:g}": _softmax_scale(x)
        for x in (1.02, 1.1, 2, 448)
    },
    "mask, all layers, causal or not": _mask,
    "mask, all layers, window of 16": _window,
    "page, second, read from the first": _second_page,
    "heads, two of them, swapped": _heads_swapped,
}

# The same, where there is a KV cache.
CACHED: dict[str, Change] = {
    **{f"K descale, all layers, x{x:g}": _descale("k_scale", x) for x in (1.1, 2, 448)},
    **{
        f"V descale, all layers, x{x:g}": _descale("v_scale", x) for x in (1.02, 1.1, 2)
    },
    "cache, all steps, last token not read": _last_key,
}


def _spoilt(where: Callable[[int], bool], value: float | None) -> Change:
    def change(kwargs: dict[str, Any], result: torch.Tensor) -> None:
        starts = kwargs["cu_seqlens_q"].tolist()
        paged = kwargs.get("block_table") is not None
        for i, (start, end) in enumerate(itertools.pairwise(starts)):
            length = int(kwargs["seqused_k"][i]) if paged else end - start
            if where(length):
                part = result[start:end]
                part.copy_(_noise(part) if value is None else part.fill_(value))

    return change


def _noise(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


def _one_head(kwargs: dict[str, Any], result: torch.Tensor) -> None:
    result[:, 1] = 0


def _last_sequence(kwargs: dict[str, Any], result: torch.Tensor) -> None:
    """Leave the output of the last of several sequences unwritten."""
    starts = kwargs["cu_seqlens_q"].tolist()
    if len(starts) > 2:
        result[starts[-2] : starts[-1]] = 0


# Changes of what an attention call has put out.
RESULTS: dict[str, Change] = {
    "NaN, length % 64 == 5": _spoilt(lambda n: n % 64 == 5, float("nan")),
    "NaN, one length": _spoilt(lambda n: n == 128, float("nan")),
    "infinity, length 133": _spoilt(lambda n: n == 133, float("inf")),
    "zeros, all layers": _spoilt(lambda n: True, 0.0),
    "zeros, lengths from 191 on": _spoilt(lambda n: n >= 191, 0.0),
    "zeros, one length": _spoilt(lambda n: n == 128, 0.0),
    "garbage, all layers": _spoilt(lambda n: True, None),
    "garbage, lengths from 191 on": _spoilt(lambda n: n >= 191, None),
    "garbage, length % 64 == 5": _spoilt(lambda n: n % 64 == 5, None),
    "zeros, one head of all layers": _one_head,
    "zeros, last sequence of a batch": _last_sequence,
}


def _one_slot_on(kwargs: dict[str, Any]) -> None:
    slots = kwargs["slot_mapping"]
    kwargs["slot_mapping"] = torch.where(slots >= 0, slots + 1, slots)


def _written_scale(strength: float) -> Change:
    def change(kwargs: dict[str, Any]) -> None:
        kwargs["k_scale"] = kwargs["k_scale"] * strength

    return change


def _not_written(kwargs: dict[str, Any]) -> None:
    """Leave the cache as it was in each step of one token a sequence."""
    if len(kwargs["slot_mapping"]) < _PAGE // 4:
        kwargs["slot_mapping"] = torch.full_like(kwargs["slot_mapping"], -1)


# Changes of the arguments of a write to the KV cache.
CACHE: dict[str, Change] = {
    "cache, all steps, written one slot on": _one_slot_on,
    "cache, decoding, not written": _not_written,
    **{f"K scale written, all layers, x{x:g}": _written_scale(x) for x in (1.1, 2)},
}

EVERY_MODEL = (*LAYERS, *ATTENTION, *RESULTS)
DECODERS = (*CACHED, *CACHE)
