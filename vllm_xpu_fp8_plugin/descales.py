# SPDX-License-Identifier: Apache-2.0
"""What vLLM's decoder attention hands the XPU kernel that it cannot take.

A descale accompanies a tensor if and only if that tensor is quantised, and it is one
value. DiffKV (keys and values of different size) hands over three descales whatever
is quantised, up to vLLM 0.33; a checkpoint with a scale for each head makes the kernel
package fail at the first request (intel/llm-scaler #532). Without the descale that it
refuses, the kernel's prefill would run DiffKV, and take values for as large as keys.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from vllm.logger import init_logger

from vllm_xpu_fp8_plugin import kernel_trial
from vllm_xpu_fp8_plugin.kernel_package import left_out
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


def refuse_value_sizes(model: torch.nn.Module) -> None:
    """Refuse a model whose values are not as large as keys, unless the kernel can.

    Raises:
        NotImplementedError: An attention layer of DiffKV has such values, and the
            installed kernel, which was tried, does not compute its prefill.

    """
    # This module is imported while vLLM chooses its platform.
    from vllm.platforms import current_platform

    diffkv = _diffkv()
    for name, layer in model.named_modules():
        impl = getattr(layer, "impl", None)
        if diffkv is None or not isinstance(impl, diffkv.FlashAttentionDiffKVImpl):
            continue
        if layer.head_size == layer.head_size_v or kernel_trial.computes_values_of(
            getattr(diffkv, _KERNEL),
            num_heads=impl.num_heads,
            num_kv_heads=impl.num_kv_heads,
            head_size=layer.head_size,
            head_size_v=layer.head_size_v,
            device=current_platform.device_type,
            dtype=kernel_trial.dtype_of(getattr(layer, "dtype", torch.bfloat16)),
        ):
            continue
        raise NotImplementedError(
            f"{name} has keys of {layer.head_size} and values of {layer.head_size_v} "
            "values a head. The installed XPU FlashAttention kernel takes both for "
            "equal in a prefill, so that its answers are wrong. Use "
            f"--attention-backend {left_out.DIFFKV_TRITON} where the model lets it be "
            "chosen, or run it with transformers."
        )


def _diffkv() -> Any:
    """Return vLLM's module of DiffKV, None where it has none."""
    try:
        from vllm.v1.attention.backends import flash_attn_diffkv
    except ModuleNotFoundError:
        return None
    return flash_attn_diffkv


def _guard_diffkv() -> None:
    """Keep descales without a quantised tensor from DiffKV's kernel."""
    flash_attn_diffkv = _diffkv()
    kernel = getattr(flash_attn_diffkv, _KERNEL, None)
    if kernel is not None and not getattr(kernel, "drops_descales", False):
        setattr(flash_attn_diffkv, _KERNEL, accompanied(kernel))


def _check_models() -> None:
    """Refuse what the kernel cannot take of a model when it is loaded."""
    after_loading(refuse_scales_by_head)
    after_loading(refuse_value_sizes)
