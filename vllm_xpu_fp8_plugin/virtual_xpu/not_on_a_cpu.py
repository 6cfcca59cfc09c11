# SPDX-License-Identifier: Apache-2.0
"""Compiled ops, and calls of them, that a CPU cannot run or would compute wrongly."""

from collections.abc import Callable
from typing import Any

import torch

from vllm_xpu_fp8_plugin import envs

_SLOW = (
    "its code, written in an Intel GPU's instructions, is slow on a CPU "
    f"({envs.VIRTUAL_OPS.name}={envs.COMPILED} runs it)"
)
_LIMITED = (
    "a CPU computes prefills of few features a head wrongly "
    f"({envs.VIRTUAL_OPS.name}={envs.COMPILED} runs the others)"
)
_ONEDNN = "a product of oneDNN, which is built for GPUs only"
_LEVEL_ZERO = "it asks the GPU's driver (Level Zero)"
_HOST_MEMORY = "its copies on a CPU take SYCL's memory only"
_UNTESTED = "no test of the kernel package that runs here calls it"

# Why the compiled op cannot run on a CPU.
_REASONS: dict[str, str] = {
    "_vllm_fa2_C::varlen_fwd": _SLOW,
    "_xpu_C::fp8_gemm": _ONEDNN,
    "_xpu_C::fp8_gemm_out": _ONEDNN,
    "_xpu_C::fp8_gemm_w8a16": _ONEDNN,
    "_xpu_C::fp8_bmm": _ONEDNN,
    "_xpu_C::int4_gemm_w4a16": _ONEDNN,
    "_xpu_C::int4_gemm_w4a8": _ONEDNN,
    "_xpu_C::fp4_gemm": _ONEDNN,
    "_xpu_C::fp4_gemm_w4a16": _ONEDNN,
    "_xpu_C::cutlass_grouped_gemm_interface": _SLOW,
    "_xpu_C::fp8_mqa_logits": _SLOW,
    "_xpu_C::fp8_paged_mqa_logits": _SLOW,
    "_xpu_C::mhc_pre": _SLOW,
    "_xpu_C::mhc_fused_post_pre": _SLOW,
    "_xpu_C::gdn_attention": _SLOW,
    "_xpu_C::causal_conv1d_non_spec": _LIMITED,
    "_xpu_C::causal_conv1d_spec": _UNTESTED,
    "_xpu_C::gated_delta_rule_spec": _UNTESTED,
    "_xpu_C::gated_delta_rule_non_spec": _SLOW,
    "_xpu_C::gated_delta_rule_spec_recoverssm": _UNTESTED,
    "_C_cache_ops::getMemoryInfo": _LEVEL_ZERO,
    "_C_cache_ops::swap_blocks_batch": _HOST_MEMORY,
    "_C::xpu_host_register": _LEVEL_ZERO,
    "_C::xpu_host_unregister": _LEVEL_ZERO,
}


def reason(name: str) -> str:
    """Return why a compiled op does not run in this process, "" if it does."""
    why = _REASONS.get(name, "")
    if why in (_SLOW, _LIMITED) and envs.VIRTUAL_OPS.get() == envs.COMPILED:
        return ""
    return why


# Features that one work-group of the convolution before a GDN layer takes.
_TILE = 256


def _convolution(
    *,
    num_k_heads: int,
    num_v_heads: int,
    head_k_dim: int,
    head_v_dim: int,
    num_prefills: int,
    num_spec_decodes: int,
    **_: Any,
) -> str:
    """Return why a call of a GDN op is refused, "" if it is not."""
    if num_spec_decodes:
        return "speculative decoding, of which no test of the kernel package runs here"
    features = 2 * head_k_dim + head_v_dim * num_v_heads // num_k_heads
    if num_prefills and features < _TILE:
        # Work-items without a feature return before a barrier that the others may
        # reach; the code that a CPU's compiler makes of that leaves `z` unwritten.
        return (
            f"a prefill of {features} features a key head (2 * head_k_dim + head_v_dim "
            f"* num_v_heads / num_k_heads): a CPU needs {_TILE} or more"
        )
    return ""


# Name of an op -> why it refuses a call with these arguments.
_LIMITS: dict[str, Callable[..., str]] = {
    "_xpu_C::gdn_attention": _convolution,
    "_xpu_C::causal_conv1d_non_spec": _convolution,
}


def guard(name: str) -> torch.library.Library | None:
    """Have a compiled op refuse what a CPU cannot run of it.

    Args:
        name: ``namespace::name`` of the op.

    Returns:
        What has to be kept as long as the op, or None: it has no limits.

    """
    why_not = _LIMITS.get(name)
    if why_not is None:
        return None
    namespace, short_name = name.split("::")
    op = getattr(getattr(torch.ops, namespace), short_name).default
    names = [a.name for a in op._schema.arguments]
    below = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)

    def checked(keys: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        if why := why_not(**given):
            raise NotImplementedError(f"The virtual XPU cannot run {name} with {why}.")
        return op.redispatch(keys & below, *args, **kwargs)

    # The one key that each call passes, also without gradients.
    library = torch.library.Library(namespace, "IMPL")
    library.impl(short_name, checked, "BackendSelect", with_keyset=True)
    return library
