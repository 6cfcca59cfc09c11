# SPDX-License-Identifier: Apache-2.0
"""Descales of vLLM's decoder attention that the XPU kernel cannot take.

A descale accompanies a tensor if and only if that tensor is quantised, and it is one
value. DiffKV (keys and values of different size) hands over three descales whatever
is quantised, up to vLLM 0.33; a checkpoint with a scale for each head makes the kernel
package fail at the first request (intel/llm-scaler #532).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from vllm.logger import init_logger

from vllm_xpu_fp8_plugin.loading import after_loading

logger = init_logger("vllm.xpu_fp8_plugin.descales")

_KERNEL = "flash_attn_varlen_func"
_TENSORS = {"q_descale": "q", "k_descale": "k", "v_descale": "v"}
_SCALES = ("_k_scale", "_v_scale")


@functools.cache
def install() -> None:
    """Guard DiffKV, and the loading of models, in this process. Idempotent.

    What this vLLM has otherwise than expected is logged and left as it is.
    """
    for change in (_guard_diffkv, _check_models):
        try:
            change()
        except Exception as e:
            logger.warning(
                "Not done, since this vLLM could not be changed (%s: %s): %s",
                type(e).__name__,
                e,
                change.__doc__,
            )


def accompanied(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return attention that drops the descale of a tensor that is not quantised.

    Args:
        kernel: Takes ``q``, ``k``, ``v`` and their descales by name.

    """

    @functools.wraps(kernel)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        for descale, name in _TENSORS.items():
            tensor = kwargs.get(name)
            if tensor is not None and tensor.dtype.itemsize > 1:
                kwargs.pop(descale, None)
        return kernel(*args, **kwargs)

    guarded.drops_descales = True  # type: ignore[attr-defined]
    return guarded


def refuse_scales_by_head(model: torch.nn.Module) -> None:
    """Refuse a model whose KV cache has a scale for each head.

    Raises:
        NotImplementedError: An attention layer that runs by FlashAttention has more
            than one value for its keys or values.

    """
    from vllm.v1.attention.backends.flash_attn import FlashAttentionImpl

    for name, layer in model.named_modules():
        if not isinstance(getattr(layer, "impl", None), FlashAttentionImpl):
            continue
        for attribute in _SCALES:
            scale = getattr(layer, attribute, None)
            if isinstance(scale, torch.Tensor) and scale.numel() != 1:
                raise NotImplementedError(
                    f"{name}.{attribute.removeprefix('_')} has {scale.numel()} values; "
                    "the XPU FlashAttention kernel takes one for all heads, and fails "
                    "at the first request otherwise. Quantise the KV cache with one "
                    "scale a layer (strategy 'tensor' in place of 'attn_head')."
                )


def _guard_diffkv() -> None:
    """Keep descales without a quantised tensor from DiffKV's kernel."""
    try:
        from vllm.v1.attention.backends import flash_attn_diffkv
    except ModuleNotFoundError:
        return
    kernel = getattr(flash_attn_diffkv, _KERNEL, None)
    if kernel is not None and not getattr(kernel, "drops_descales", False):
        setattr(flash_attn_diffkv, _KERNEL, accompanied(kernel))


def _check_models() -> None:
    """Refuse a KV cache with a scale for each head when it is loaded."""
    after_loading(refuse_scales_by_head)
