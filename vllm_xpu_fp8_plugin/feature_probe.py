# SPDX-License-Identifier: Apache-2.0
"""Asks the installed attention kernel whether it computes what a layer needs."""

import functools
from typing import Any

import torch
from vllm.logger import init_logger

logger = init_logger("vllm.xpu_fp8_plugin.feature_probe")

_TOKENS = 6
# Logits go from -4 to 4 and are capped at 1; a half precision result is this near.
_CAP, _TOLERANCE = 1.0, 0.05


@functools.cache
def computes(
    kernel: Any,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    window: tuple[int, int],
    softcap: bool,
    alibi: bool,
    device: str,
    dtype: torch.dtype,
) -> bool:
    """Return whether a small encoder attention is right with a soft cap or ALiBi.

    Args:
        kernel: vLLM's ``flash_attn_varlen_func``: its wrapper, the kernel package's
            Python layer and the compiled kernel are asked together.
        num_heads: Query heads of the layer; as the next ones, it picks the kernel.
        num_kv_heads: Key and value heads.
        head_size: Values of a head.
        window: Keys to the left and right that a query sees, -1 for all.
        softcap: Whether to ask for a cap of the logits.
        alibi: Whether to ask for ALiBi: ``-slope * |i - j|`` is added to a logit, as
            FlashAttention does without a causal mask.
        device: Where to ask.
        dtype: float16 or bfloat16.

    """
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(_TOKENS, heads, head_size, generator=generator, device="cpu").to(
            dtype
        )
        for heads in (num_heads, num_kv_heads, num_kv_heads)
    )
    scale = 4 / _logits(query, key).abs().max().item()
    slopes = torch.linspace(0.5, 1, num_heads, device="cpu") if alibi else None
    cap = _CAP if softcap else 0.0
    expected = _expected(query, key, value, scale, window, cap, slopes)
    starts = torch.tensor([0, _TOKENS], dtype=torch.int32, device=device)
    output = torch.zeros(query.shape, dtype=dtype, device=device)
    try:
        result = kernel(
            q=query.to(device),
            k=key.to(device),
            v=value.to(device),
            out=output,
            cu_seqlens_q=starts,
            cu_seqlens_k=starts,
            max_seqlen_q=_TOKENS,
            max_seqlen_k=_TOKENS,
            softmax_scale=scale,
            causal=False,
            window_size=list(window),
            softcap=cap,
            alibi_slopes=None if slopes is None else slopes.to(device),
        )
        got = output if result is None else result.view_as(output)
        return bool(((got.float().cpu() - expected).abs() < _TOLERANCE).all())
    except Exception as e:
        logger.info("The attention kernel refuses: %s: %s", type(e).__name__, e)
        return False


def _logits(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return ``query @ key`` in float32, [num_heads, tokens, tokens]."""
    group = query.shape[1] // key.shape[1]
    keys = key.float().repeat_interleave(group, dim=1)
    return torch.einsum("qhd,khd->hqk", query.float(), keys)


def _expected(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: tuple[int, int],
    cap: float,
    slopes: torch.Tensor | None,
) -> torch.Tensor:
    """Return bidirectional attention in float32, [tokens, num_heads, head_size]."""
    logits = scale * _logits(query, key)
    if cap:
        logits = cap * torch.tanh(logits / cap)
    place = torch.arange(_TOKENS, device="cpu")
    ahead = place[None, :] - place[:, None]
    if slopes is not None:
        logits = logits - slopes[:, None, None] * ahead.abs()
    left, right = (side if side >= 0 else _TOKENS for side in window)
    logits = logits.masked_fill((ahead < -left) | (ahead > right), -torch.inf)
    values = value.float().repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return torch.einsum("hqk,khd->qhd", logits.softmax(-1), values)
