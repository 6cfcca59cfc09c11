# SPDX-License-Identifier: Apache-2.0
"""Faults of what only one kind of model has: experts, codes of four bits, a state.

`faults` switches them on. `CALLS` change the arguments of an op; `WORKERS` change what
a worker holds and leave behind what takes it back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Change = Callable[[dict[str, Any]], None]


def _latent_a_page_on(kwargs: dict[str, Any]) -> None:
    slots = kwargs["slot_mapping"]
    page = kwargs["kv_cache"].shape[1]
    kwargs["slot_mapping"] = torch.where(slots >= 0, slots + page, slots)


def _state_not_reset(kwargs: dict[str, Any]) -> None:
    """Go on from the state that the last request with this slot has left."""
    if kwargs["has_initial_state"] is not None:
        kwargs["has_initial_state"] = torch.ones_like(kwargs["has_initial_state"])


# Op -> fault -> what it does to the arguments of a call.
CALLS: dict[str, dict[str, Change]] = {
    "_C_cache_ops::concat_and_cache_mla": {
        "latent, written a page on": _latent_a_page_on,
    },
    "_xpu_C::gdn_attention": {"state, not reset": _state_not_reset},
}


class _Undo(NamedTuple):
    """What takes a change back, as a hook of torch is removed."""

    remove: Callable[[], None]


def _put(worker: Any, owner: Any, name: str, value: Any) -> None:
    """Give an object another attribute."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    _undo_by(worker, lambda: setattr(owner, name, before))


def _write(worker: Any, tensor: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Change a tensor where it is, since an op may hold on to its memory."""
    # As bytes, for FP8 cannot be moved.
    tensor = tensor.view(torch.uint8) if tensor.itemsize == 1 else tensor
    before = tensor.clone()
    tensor.copy_(change(before))
    _undo_by(worker, lambda: tensor.copy_(before))


def _undo_by(worker: Any, remove: Callable[[], Any]) -> None:
    worker.__dict__.setdefault("hooks", []).append(_Undo(remove))


def _parameters(worker: Any, name: str) -> list[Tensor]:
    """Return the parameters of a model that have a name, one a layer."""
    modules = worker.model_runner.model.modules()
    return [m._parameters[name] for m in modules if name in m._parameters]


def _held(worker: Any, name: str) -> list[Any]:
    """Return what modules hold by a name, each once."""
    modules = worker.model_runner.model.modules()
    found = [vars(m)[name] for m in modules if name in vars(m)]
    return list({id(x): x for x in found}.values())


def _experts_of_another(worker: Any) -> None:
    """Give each expert the gates of the one before it."""
    for weights in _parameters(worker, "w13_weight"):
        _write(worker, weights, lambda before: before.roll(1, 0))


def _scales_of_another_block(worker: Any) -> None:
    """Give each block of an expert's gates the scale of one beside it."""
    for scales in _parameters(worker, "w13_weight_scale_inv"):
        _write(worker, scales, lambda before: before.roll((1, 1), (1, 2)))


def _halves_swapped(worker: Any) -> None:
    for codes in _parameters(worker, "w13_weight"):
        _write(worker, codes, lambda before: before << 4 | before >> 4)


def _not_renormalised(worker: Any) -> None:
    for router in _held(worker, "router"):
        _put(worker, router, "renormalize", False)


def _router_weights_ignored(worker: Any) -> None:
    """Give a token's experts equal parts in its result."""
    for router in _held(worker, "router"):

        def equal(*args: Any, sound: Any = router._compute_routing, **kw: Any) -> Any:
            weights, experts = sound(*args, **kw)
            return torch.full_like(weights, 1 / weights.shape[-1]), experts

        _put(worker, router, "_compute_routing", equal)


def _zero_point_off(worker: Any) -> None:
    for zeros in _parameters(worker, "qzeros"):
        _write(worker, zeros, lambda before: before - 1)


def _scale_of_another_group(worker: Any) -> None:
    for scales in _parameters(worker, "scales"):
        _write(worker, scales, lambda before: before.roll(1, 0))


def _pooled(worker: Any, place: Callable[[Any], Tensor]) -> None:
    """Pool other tokens than the last ones."""
    from vllm.model_executor.layers.pooler.seqwise.methods import LastPool

    def pool(states: Tensor, metadata: Any) -> Tensor:
        return states[place(metadata.get_pooling_cursor())]

    for pooler in worker.model_runner.model.pooler.poolers_by_task.values():
        if isinstance(pooler.pooling, LastPool):
            _put(worker, pooler.pooling, "forward", pool)


def _token_before(worker: Any) -> None:
    def place(cursor: Any) -> Tensor:
        first, last = cursor.first_token_indices_gpu, cursor.last_token_indices_gpu
        return torch.maximum(first, last - 1)

    _pooled(worker, place)


def _first_token(worker: Any) -> None:
    _pooled(worker, lambda cursor: cursor.first_token_indices_gpu)


def _width_ignored(worker: Any) -> None:
    _put(worker, worker.model_runner.model, "scale_width", 1.0)


def _adapter_of_another(worker: Any) -> None:
    """Give each request the adapter in the first place, whichever it asked for."""
    for wrapper in _held(worker, "punica_wrapper"):

        def first(x: Tensor, wrapper: Any = wrapper) -> Tensor:
            return torch.zeros_like(wrapper._token_lora_indices[: x.shape[0]])

        _put(worker, wrapper, "_get_token_lora_indices", first)


WORKERS: dict[str, Callable[[Any], None]] = {
    "experts, gates of another": _experts_of_another,
    "experts, scales of another block": _scales_of_another_block,
    "experts, halves of each byte swapped": _halves_swapped,
    "router, not renormalised": _not_renormalised,
    "router, weights ignored": _router_weights_ignored,
    "int4, zero point off by one": _zero_point_off,
    "int4, scale of another group": _scale_of_another_group,
    "pooling, the token before": _token_before,
    "pooling, the first token": _first_token,
    "MiniCPM, width ignored": _width_ignored,
    "LoRA, adapter of another": _adapter_of_another,
}
