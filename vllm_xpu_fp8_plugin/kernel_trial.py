# SPDX-License-Identifier: Apache-2.0
"""Tries whether the installed attention kernel computes what a layer needs.

The kernel is vLLM's ``flash_attn_varlen_func``: its wrapper, the kernel package's
Python layer and the compiled kernel are tried together.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from vllm.logger import init_logger

logger = init_logger("vllm.xpu_fp8_plugin.kernel_trial")

_TOKENS = 6
# Logits go from -4 to 4 and are capped at 1; a half precision result is this near.
_CAP, _TOLERANCE = 1.0, 0.05
# Unlike each other, or the kernel package takes them for speculative decoding.
_PREFILLS = (3, 20)
_PAGE = 64


def dtype_of(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a layer's kernel is tried, of the model's."""
    return dtype if dtype.itemsize == 2 else torch.bfloat16


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
        kernel: vLLM's ``flash_attn_varlen_func``.
        num_heads: Query heads of the layer; as the next ones, it picks the kernel.
        num_kv_heads: Key and value heads.
        head_size: Values of a head.
        window: Keys to the left and right that a query sees, -1 for all.
        softcap: Whether to ask for a cap of the logits.
        alibi: Whether to ask for ALiBi: ``-slope * |i - j|`` is added to a logit, as
            FlashAttention does without a causal mask.
        device: Where to try.
        dtype: float16 or bfloat16.

    """
    query, key, value = _draw(
        [(_TOKENS, n, head_size) for n in (num_heads, num_kv_heads, num_kv_heads)],
        dtype,
    )
    scale = 4 / _logits(query, key).abs().max().item()
    slopes = torch.linspace(0.5, 1, num_heads, device="cpu") if alibi else None
    cap = _CAP if softcap else 0.0
    starts = torch.tensor([0, _TOKENS], dtype=torch.int32, device=device)
    return _is_right(
        kernel,
        _expected(query, key, value, scale, window, cap, slopes),
        device,
        q=query,
        k=key,
        v=value,
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


@functools.cache
def computes_values_of(
    kernel: Any,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    head_size_v: int,
    device: str,
    dtype: torch.dtype,
) -> bool:
    """Return whether a small causal prefill is right with values of another size.

    Args:
        kernel: vLLM's ``flash_attn_varlen_func``.
        num_heads: Query heads of the layer.
        num_kv_heads: Key and value heads.
        head_size: Values of a head's query and key.
        head_size_v: Values of a head's value.
        device: Where to try.
        dtype: float16 or bfloat16.

    """
    (query, cache) = _draw(
        [
            (sum(_PREFILLS), num_heads, head_size),
            (len(_PREFILLS), _PAGE, num_kv_heads, head_size + head_size_v),
        ],
        dtype,
    )
    # One tensor holds both, as in vLLM's cache.
    key, value = cache.split([head_size, head_size_v], dim=-1)
    scale = 4 / _logits(query, key.flatten(0, 1)).abs().max().item()
    expected = [
        _expected(q, key[i, : len(q)], value[i, : len(q)], scale, (-1, 0))
        for i, q in enumerate(query.split(_PREFILLS))
    ]
    lengths = torch.tensor(_PREFILLS, dtype=torch.int32, device="cpu")
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    key, value = cache.to(device).split([head_size, head_size_v], dim=-1)
    return _is_right(
        kernel,
        torch.cat(expected),
        device,
        q=query,
        k=key,
        v=value,
        cu_seqlens_q=starts.int().to(device),
        seqused_k=lengths.to(device),
        max_seqlen_q=max(_PREFILLS),
        max_seqlen_k=max(_PREFILLS),
        softmax_scale=scale,
        causal=True,
        window_size=[-1, -1],
        block_table=torch.arange(
            len(_PREFILLS), dtype=torch.int32, device=device
        ).unsqueeze(1),
    )


def _draw(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    """Return tensors on the host, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, device="cpu").to(dtype)
        for shape in shapes
    ]


def _is_right(
    kernel: Any, expected: Tensor, device: str, *, q: Tensor, **arguments: Any
) -> bool:
    """Return whether `kernel` gives what is expected, False where it refuses."""
    output = torch.full(expected.shape, torch.nan, dtype=q.dtype, device=device)
    for name in "kv":
        arguments[name] = arguments[name].to(device)
    try:
        result = kernel(q=q.to(device), out=output, **arguments)
        got = output if result is None else result.view_as(output)
        return bool(((got.float().cpu() - expected).abs() < _TOLERANCE).all())
    except Exception as e:
        logger.info("The attention kernel refuses: %s: %s", type(e).__name__, e)
        return False


def _logits(query: Tensor, key: Tensor) -> Tensor:
    """Return ``query @ key`` in float32, [num_heads, queries, keys]."""
    group = query.shape[1] // key.shape[1]
    keys = key.float().repeat_interleave(group, dim=1)
    return torch.einsum("qhd,khd->hqk", query.float(), keys)


def _expected(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: tuple[int, int],
    cap: float = 0.0,
    slopes: Tensor | None = None,
) -> Tensor:
    """Return a sequence's attention in float32, [tokens, num_heads, head_size_v]."""
    logits = scale * _logits(query, key)
    if cap:
        logits = cap * torch.tanh(logits / cap)
    place = torch.arange(len(query), device="cpu")
    ahead = place[None, :] - place[:, None]
    if slopes is not None:
        logits = logits - slopes[:, None, None] * ahead.abs()
    left, right = (side if side >= 0 else len(query) for side in window)
    logits = logits.masked_fill((ahead < -left) | (ahead > right), -torch.inf)
    values = value.float().repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return torch.einsum("hqk,khd->qhd", logits.softmax(-1), values)
