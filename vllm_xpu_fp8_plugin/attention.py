# SPDX-License-Identifier: Apache-2.0
"""Encoder attention on XPU without descales; all else is vLLM's FlashAttention."""

import functools
import inspect
from typing import Any

import torch
from vllm.platforms import current_platform

from vllm_xpu_fp8_plugin import compat, kernel_trial
from vllm_xpu_fp8_plugin.kernel_package import left_out

try:
    from vllm.v1.attention.backend import AttentionType
    from vllm.v1.attention.backends import flash_attn as upstream
except ImportError as e:
    raise compat.unsupported("The attention backend", e) from e


def _require(owner: Any, *names: str) -> None:
    """Fail where the installed vLLM lacks what this module builds on."""
    if missing := [name for name in names if not hasattr(owner, name)]:
        raise RuntimeError(
            f"vllm-xpu-fp8-plugin cannot run with vLLM {compat.vllm_version()}: "
            f"{owner.__name__} has no {', '.join(missing)}. Update the plugin, or set "
            "VLLM_XPU_FP8_PLUGIN=0 to run vLLM without it."
        )


_require(
    upstream,
    "FlashAttentionBackend",
    "FlashAttentionImpl",
    "flash_attn_varlen_func",
)
_require(
    upstream.FlashAttentionBackend,
    "get_impl_cls",
    "get_name",
)
_require(upstream.FlashAttentionImpl, "_forward_encoder_attention")

_ENCODER_TYPES = (AttentionType.ENCODER, AttentionType.ENCODER_ONLY)


class XPUFp8AttentionImpl(upstream.FlashAttentionImpl):  # type: ignore[misc]
    """`FlashAttentionImpl` whose encoder attention passes the kernel no descale.

    A descale belongs to a quantised tensor. Encoder attention has no KV cache and,
    on XPU, no FP8 query, so none of its tensors is quantised (vLLM #39676). Decoder
    layers run upstream's code.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take upstream's arguments.

        Raises:
            NotImplementedError: An encoder layer has ALiBi slopes or a logits soft
                cap, and the installed kernel, which was asked, does not compute it.

        """
        super().__init__(*args, **kwargs)
        if self.attn_type not in _ENCODER_TYPES:
            return
        self._window_size = list(self.sliding_window)
        # What few layers have, and each argument costs every layer's call.
        self._more = {}
        if self.alibi_slopes is not None:
            self._more["alibi_slopes"] = self.alibi_slopes
        if self.logits_soft_cap:
            self._more["softcap"] = self.logits_soft_cap
        _refuse_what_is_left_out(self)
        # vLLM's attention layer would otherwise quantise the query where the KV
        # cache is FP8 (vLLM before 0.20, and forks of it).
        self.supports_quant_query_input = False

    def _forward_encoder_attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        attn_metadata: Any,
        layer: torch.nn.Module,
    ) -> torch.Tensor:
        """Bidirectional attention over ragged sequences, without a KV cache.

        It does not ask for the KV cache's dtype, as upstream does: an encoder layer
        has no KV cache (vLLM #55048).

        Args:
            query: shape = [num_encoder_tokens, num_heads, head_size]
            key: shape = [num_encoder_tokens, num_kv_heads, head_size]
            value: shape = [num_encoder_tokens, num_kv_heads, head_size]
            output: shape = [num_encoder_tokens, num_heads, head_size], written
            attn_metadata: Has ``query_start_loc`` (int32, [num_seqs + 1]) and
                ``max_query_len``.
            layer: The attention layer; its scales are not used.

        Returns:
            `output`

        """
        cu_seqlens = attn_metadata.query_start_loc
        max_seqlen = attn_metadata.max_query_len
        kernel = upstream.flash_attn_varlen_func
        if self._more:
            kernel = functools.partial(kernel, **self._more)
        result = kernel(
            q=query,
            k=key,
            v=value,
            out=output,
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_k=cu_seqlens,
            max_seqlen_q=max_seqlen,
            max_seqlen_k=max_seqlen,
            softmax_scale=self.scale,
            causal=False,
            window_size=self._window_size,
            s_aux=self.sinks,
        )
        # vllm-xpu-kernels 0.1.10 - 0.1.13.2 return the result of their PyTorch
        # fallback for a kernel that is not compiled, and leave `out` as it was.
        # Upstream ignores what is returned, so it may as well be nothing.
        if result is output or result is None:
            return output
        if result.data_ptr() != output.data_ptr():
            output.copy_(result.view_as(output))
        return output


def _refuse_what_is_left_out(impl: XPUFp8AttentionImpl) -> None:
    """Ask the installed kernel for what the layer has beyond plain attention.

    Raises:
        NotImplementedError: It does not compute it.

    """
    wanted = {
        "alibi": impl.alibi_slopes is not None,
        "softcap": bool(impl.logits_soft_cap),
    }
    if not any(wanted.values()):
        return
    if not kernel_trial.computes(
        upstream.flash_attn_varlen_func,
        num_heads=impl.num_heads,
        num_kv_heads=impl.num_kv_heads,
        head_size=impl.head_size,
        window=tuple(impl.sliding_window),
        device=current_platform.device_type,
        # vLLM makes a model's layers with its dtype as the default one.
        dtype=kernel_trial.dtype_of(torch.get_default_dtype()),
        **wanted,
    ):
        raise NotImplementedError(
            "An encoder layer of this model has "
            f"{' and '.join(left_out.features(**wanted))}, which the installed XPU "
            f"FlashAttention kernel leaves out or refuses. {_remedy(**wanted)}"
        )


def _remedy(*, alibi: bool, softcap: bool) -> str:
    """Return what computes these in an encoder layer, as far as this vLLM has it."""
    from vllm.v1.attention.backends import triton_attn

    function = getattr(triton_attn, "context_attention_fwd", None)
    taken = set(inspect.signature(function).parameters) if function else set()
    if left_out.arguments(alibi=alibi, softcap=softcap) <= taken:
        return f"Use --attention-backend {left_out.COMPUTES_THEM}, which computes it."
    return left_out.NOWHERE


class XPUFp8AttentionBackend(upstream.FlashAttentionBackend):  # type: ignore[misc]
    """`FlashAttentionBackend` with `XPUFp8AttentionImpl`.

    Keeps the name FLASH_ATTN, by which vLLM looks a backend up in its registry.
    """

    @staticmethod
    def get_impl_cls() -> type[XPUFp8AttentionImpl]:
        """Return the implementation class that vLLM makes one of for each layer."""
        return XPUFp8AttentionImpl
