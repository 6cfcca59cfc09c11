# SPDX-License-Identifier: Apache-2.0
"""Faults to put into ops: what a kernel may do in place of what it should.

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


def _behind(op: Op, arguments: dict[str, Any]) -> None:
    """Write a vector more than there is."""
    op(**arguments)
    result = arguments["result"]
    end = result.storage_offset() + result.numel()
    result.as_strided((8,), (1,), end).fill_(1.0)


def _before(op: Op, arguments: dict[str, Any]) -> None:
    op(**arguments)
    result = arguments["result"]
    result.as_strided((1,), (1,), result.storage_offset() - 1).fill_(1.0)


def _input(op: Op, arguments: dict[str, Any]) -> None:
    """Norm in place, and copy."""
    op(**arguments)
    arguments["input"][0] = arguments["result"][0]


_calls = itertools.count()


def _race(op: Op, arguments: dict[str, Any]) -> None:
    """Read what another submission has written every other time."""
    op(**arguments)
    if next(_calls) % 2:
        result = arguments["result"]
        result[1] = torch.nextafter(result[1], result[1] + 1)


def _neighbour(op: Op, arguments: dict[str, Any]) -> None:
    """Take another path for a token where the token before it is small."""
    op(**arguments)
    result, x = arguments["result"], arguments["input"]
    larger = torch.nextafter(result[1:], result[1:] + 1)
    result[1:] = torch.where(x[:-1, :1] > 0, larger, result[1:])


def _no_stride(op: Op, arguments: dict[str, Any]) -> Any:
    """Take rows to follow each other without gaps."""
    x = arguments["input"]
    strides = (x.shape[1], 1)
    return op(**{**arguments, "input": x.as_strided(x.shape, strides)})


def _transposed(op: Op, arguments: dict[str, Any]) -> Any:
    scale = arguments["B_scale_"]
    turned = scale.reshape(scale.shape[::-1]).t().contiguous()
    return op(**{**arguments, "B_scale_": turned})


def _first(x: Tensor) -> Tensor:
    return x.flatten()[:1].expand(x.numel()).reshape(x.shape).contiguous()


def _has(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda arguments: isinstance(arguments.get(name), Tensor)


def _many(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda a: isinstance(a.get(name), Tensor) and a[name].numel() > 1


def _is(**values: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda a: all(a.get(name) == value for name, value in values.items())


def _gaps(arguments: dict[str, Any]) -> bool:
    x = arguments["input"]
    return x.shape[0] > 1 and x.stride(0) > x.shape[1]


def _floats(arguments: dict[str, Any]) -> bool:
    return bool(arguments["result"].dtype == torch.float32)


_STATIC, _NORM = "_C::static_scaled_fp8_quant", "_C::rms_norm"
_CACHE = "_C_cache_ops::reshape_and_cache_flash"
_W8A16, _W8A8 = "_xpu_C::fp8_gemm_w8a16", "_xpu_C::fp8_gemm"
_ATTENTION = "_vllm_fa2_C::varlen_fwd"
_ROTARY = "_C::rotary_embedding"

FAULTS = {
    "scale ignored": PutIn(
        _STATIC, changed(scale=torch.ones_like), "values", "ignores scale"
    ),
    "scale twice": PutIn(
        _STATIC, changed(scale=torch.square), "values", "applies scale twice"
    ),
    "scale inverted": PutIn(
        _STATIC,
        changed(scale=torch.reciprocal),
        "values",
        "applies the inverse of scale",
    ),
    "scale of row 0": PutIn(
        _STATIC,
        changed(scale=_first),
        "values",
        "reads scale of channel 0 for all",
        _many("scale"),
    ),
    "last row unwritten": PutIn(
        "_C::dynamic_per_token_scaled_fp8_quant",
        unwritten("result", -1),
        "unwritten",
        "never writes result in 2048 of 14336 elements (row 6 of 7)",
    ),
    "tail unwritten": PutIn(
        "_C::gelu_tanh_and_mul",
        unwritten("out", (..., slice(-64, None))),
        "unwritten",
        "column 1984 to 2047 of 2048",
    ),
    "weight ignored": PutIn(
        _NORM, changed(weight=torch.ones_like), "values", "ignores weight"
    ),
    "epsilon ignored": PutIn(
        "_C::fused_add_rms_norm",
        changed(epsilon=lambda e: 1.0),
        "values",
        "wrong input",
    ),
    "write behind the end": PutIn(_NORM, _behind, "outside", "16 bytes behind its end"),
    "write before the start": PutIn(
        _NORM, _before, "outside", "2 bytes before its start"
    ),
    "input changed": PutIn(_NORM, _input, "input", "changes its input input"),
    "race": PutIn(_NORM, _race, "runs", "gives another result when run", _floats),
    "neighbour": PutIn(
        _NORM, _neighbour, "neighbours", "depends on the values of other", _floats
    ),
    "gate for up": PutIn(
        "_C::silu_and_mul",
        changed(input=lambda x: torch.cat(x.chunk(2, -1)[::-1], -1)),
        "values",
        "swaps the halves of input",
    ),
    "stride": PutIn(_STATIC, _no_stride, "values", "wrong result", _gaps),
    "position": PutIn(
        _ROTARY,
        changed(positions=lambda p: (p + 1) % 128),
        "values",
        "is off by one in positions",
    ),
    "style": PutIn(
        _ROTARY, changed(is_neox=lambda x: not x), "values", "takes is_neox for False"
    ),
    "slot": PutIn(
        _CACHE,
        changed(slot_mapping=lambda s: (s + 1).where(s >= 0, s)),
        "values",
        "is off by one slot",
    ),
    "key's scale for values": PutIn(
        _CACHE,
        changed(v_scale=lambda s: s / 4),
        "values",
        "wrong value_cache",
        _is(kv_cache_dtype="fp8"),
    ),
    "scales swapped": PutIn(
        _CACHE,
        swapped("k_scale", "v_scale"),
        "values",
        "takes v_scale for k_scale",
        _is(kv_cache_dtype="fp8"),
    ),
    "page": PutIn(
        "_C_cache_ops::gather_cache",
        changed(block_table=lambda t: t.roll(-1, 1)),
        "values",
        "is off by one page",
    ),
    "channel": PutIn(
        _W8A16,
        changed(B_scale_=_first),
        "values",
        "reads B_scale_ of channel 0 for all 512",
        _many("B_scale_"),
    ),
    "off by a channel": PutIn(
        _W8A16,
        changed(B_scale_=lambda s: s.roll(1)),
        "values",
        "is off by one in B_scale_",
        _many("B_scale_"),
    ),
    "bias twice": PutIn(
        _W8A16,
        changed(bias_=lambda b: 2 * b),
        "values",
        "adds bias_ twice",
        _has("bias_"),
    ),
    "blocks transposed": PutIn(
        _W8A16,
        _transposed,
        "values",
        "takes B_scale_ transposed",
        lambda a: (
            isinstance(a["B_scale_"], Tensor)
            and a["B_scale_"].dim() == 2
            and a["B_scale_"].shape[0] > 1
        ),
    ),
    "token's scale": PutIn(
        _W8A8,
        changed(A_scale_=_first),
        "values",
        "reads A_scale_ of channel 0 for all",
        _many("A_scale_"),
    ),
    "mask": PutIn(
        _ATTENTION,
        changed(is_causal=lambda x: False),
        "values",
        "takes is_causal for False",
        lambda a: a["is_causal"] and a["block_table"] is None,
    ),
    "window": PutIn(
        _ATTENTION,
        changed(window_size_left=lambda x: -1),
        "values",
        "ignores window_size_left",
        lambda a: a["window_size_left"] > 0,
    ),
    "last page": PutIn(
        _ATTENTION,
        changed(seqused_k=lambda n: n // 64 * 64),
        "values",
        "leaves out the last, partial page",
        lambda a: a["seqused_k"] is not None and int(a["seqused_k"].min()) > 64,
    ),
    "pages of another": PutIn(
        _ATTENTION,
        changed(block_table=lambda t: t.roll(1, 0).contiguous()),
        "values",
        "takes another sequence's pages",
        lambda a: a["block_table"] is not None and len(a["block_table"]) > 2,
    ),
    "sink": PutIn(
        _ATTENTION,
        changed(softmax_sink=lambda s: None),
        "values",
        "ignores softmax_sink",
        _has("softmax_sink"),
    ),
}
