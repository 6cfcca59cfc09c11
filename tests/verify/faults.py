# SPDX-License-Identifier: Apache-2.0
"""Faults to put into the virtual XPU, each one seen or feared on real kernels.

`switched_on` takes effect at once, so that one engine runs with several faults after
each other.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.verify import engine_faults, model_faults
from vllm_xpu_fp8_plugin import reference, virtual_xpu
from vllm_xpu_fp8_plugin.virtual_xpu import ops

_ACTIVE = {"fault": ""}


def install() -> None:
    """Put ops that can be at fault in the place of some of the virtual XPU's."""
    virtual_xpu.enable()
    for name, wrap in (
        ("_vllm_fa2_C::varlen_fwd", _attention),
        ("_xpu_C::fp8_gemm_w8a16", _product),
        ("_C_cache_ops::reshape_and_cache_flash", _call(engine_faults.CACHE)),
        *((name, _call(changes)) for name, changes in model_faults.CALLS.items()),
    ):
        sound = reference.implementations()[name]
        # By the sound op's signature is told which arguments it takes.
        function = functools.wraps(sound)(functools.partial(wrap, sound))
        ops.substitute(name, function, "faulty")


@contextlib.contextmanager
def switched_on(fault: str, llm: Any) -> Iterator[None]:
    """Run with a fault in the ops, or in the weights of `llm`'s workers."""
    if change := _OF_WORKERS.get(fault):
        llm.collective_rpc(change)
    _ACTIVE["fault"] = fault
    yield
    _ACTIVE["fault"] = ""
    if change:
        llm.collective_rpc(_restore)


def _attention(sound: Callable[..., Any], **kwargs: Any) -> list[torch.Tensor]:
    fault = _ACTIVE["fault"]
    if fault == "k_descale_ignored":
        kwargs["k_scale"] = None
    if fault == "v_descale_twice":
        kwargs["v_scale"] = kwargs["v_scale"] * kwargs["v_scale"]
    paged = kwargs.get("block_table") is not None
    if fault == "stale_decode" and paged and kwargs["max_seqlen_q"] == 1:
        # At every second length the cache ends with the previous token.
        lengths = kwargs["seqused_k"]
        shorter = torch.where(lengths > 1, lengths - lengths % 2, lengths)
        kwargs["seqused_k"] = shorter.to(lengths.dtype)
    before = engine_faults.ATTENTION.get(fault) or engine_faults.CACHED.get(fault)
    if before:
        before(kwargs)
    result: list[torch.Tensor] = sound(**kwargs)
    if after := engine_faults.RESULTS.get(fault):
        after(kwargs, result[0])
    if fault == "nan_at_remainder":
        starts = kwargs["cu_seqlens_q"].tolist()
        for i, (start, end) in enumerate(itertools.pairwise(starts)):
            length = int(kwargs["seqused_k"][i]) if paged else end - start
            if length % 64 == 5:
                result[0][start:end] = float("nan")
    return result


def _product(sound: Callable[..., Any], **kwargs: Any) -> torch.Tensor:
    scale = kwargs.get("B_scale_")
    if _ACTIVE["fault"] == "channel_scale_as_tensor_scale" and scale is not None:
        kwargs["B_scale_"] = scale.flatten()[:1].clone()
    result: torch.Tensor = sound(**kwargs)
    return result


def _call(changes: dict[str, Callable[[dict[str, Any]], None]]) -> Callable[..., Any]:
    """Return what changes an op's arguments by the fault that is on."""

    def call(sound: Callable[..., Any], **kwargs: Any) -> Any:
        if change := changes.get(_ACTIVE["fault"]):
            change(kwargs)
        return sound(**kwargs)

    return call


def set_kv_scales(worker: Any) -> None:
    """Give attention layers the scales that a calibrated checkpoint brings."""
    for module in worker.model_runner.model.modules():
        if hasattr(module, "_k_scale"):
            module._k_scale.fill_(0.06)
            module._v_scale.fill_(0.03)


def _one_value_head(worker: Any) -> None:
    """Round every weight of the score head to its greatest one."""
    head = _score_head(worker)
    _replace(worker, head, "weight", head.weight.abs().max().expand_as(head.weight))


def _zero_head(worker: Any) -> None:
    """Round every weight of the score head to zero, as without a scale."""
    head = _score_head(worker)
    _replace(worker, head, "weight", torch.zeros_like(head.weight))


def _score_head(worker: Any) -> Any:
    return next(
        module
        for module in worker.model_runner.model.modules()
        if getattr(module, "out_features", getattr(module, "output_size", 0)) == 1
    )


def _scales_of_rank_0(worker: Any) -> None:
    """Give each rank the weight scales of rank 0, for weights of its own."""
    from vllm.distributed import get_tp_group

    for module in worker.model_runner.model.modules():
        scale = getattr(module, "weight_scale", None)
        if isinstance(scale, torch.Tensor):
            new = scale.detach().clone()
            get_tp_group().broadcast(new, src=0)
            _replace(worker, module, "weight_scale", new)


def _replace(worker: Any, module: Any, name: str, new: torch.Tensor) -> None:
    worker.__dict__.setdefault("replaced", []).append(
        (module, name, getattr(module, name))
    )
    setattr(module, name, torch.nn.Parameter(new.clone(), requires_grad=False))


def _restore(worker: Any) -> None:
    for module, name, old in worker.__dict__.pop("replaced", []):
        setattr(module, name, old)
    engine_faults.restore(worker)


_OF_WORKERS = {
    **engine_faults.LAYERS,
    **model_faults.WORKERS,
    "one_value_head": _one_value_head,
    "zero_head": _zero_head,
    "scales_of_rank_0": _scales_of_rank_0,
}
