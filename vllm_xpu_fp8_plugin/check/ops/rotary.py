# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding, and RMS norm and rotation of heads in one."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.ops.norms import rms
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_POSITIONS = 128


def angles(rotary_dim: int, dtype: torch.dtype) -> Tensor:
    """Return cosines and sines of positions, [positions, rotary_dim]."""
    rates = 1e4 ** (-torch.arange(rotary_dim // 2) * 2 / rotary_dim)
    angle = torch.arange(_POSITIONS)[:, None] * rates
    return torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype)


def rotated(
    values: Tensor, cos: Tensor, sin: Tensor, is_neox: bool
) -> tuple[Tensor, Tensor]:
    """Rotate the first values of each head.

    Args:
        values: [tokens, heads, head_size], float64.
        cos: [tokens, pairs].
        sin: As `cos`.
        is_neox: Whether a pair is a value of either half, not neighbours.

    Returns:
        The result, and the sum of the magnitudes that each value is the sum of.

    """
    pairs = cos.shape[-1]
    cos, sin = cos.double()[:, None], sin.double()[:, None]
    result, sizes = values.clone(), torch.zeros_like(values)
    if is_neox:
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    else:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    x, y = values[..., first], values[..., second]
    result[..., first] = x * cos - y * sin
    result[..., second] = y * cos + x * sin
    sizes[..., first] = (x * cos).abs() + (y * sin).abs()
    sizes[..., second] = (y * cos).abs() + (x * sin).abs()
    return result, sizes


def expected(exact: Tensor, sizes: Tensor, like: Tensor) -> Expected:
    """Return a rotation of which kernels round each product to the type."""
    info = torch.finfo(like.dtype)
    error = sizes * info.eps + sizes * 2.0**-22 + info.smallest_normal * info.eps
    return Expected(exact.reshape(like.shape), error=error.reshape(like.shape))


def _rotate(
    tensor: Tensor, head_size: int, cos: Tensor, sin: Tensor, is_neox: bool
) -> Expected:
    count = math.prod(tensor.shape) // max(1, len(cos) * head_size)
    heads = tensor.double().reshape(len(cos), count, head_size)
    exact, sizes = rotated(heads, cos, sin, is_neox)
    return expected(exact, sizes, tensor)


def _cases() -> Iterator[Arguments]:
    # Tokens, query and key heads, head size, what of it is rotated, style.
    shapes = (
        (7, 8, 2, 128, 128, True),
        (1, 32, 8, 64, 64, True),
        (33, 3, 1, 80, 32, False),
        (5, 2, 2, 256, 64, True),
        (0, 2, 2, 64, 64, True),
    )
    for dtype in making.FLOATS:
        for tokens, queries, keys, head_size, rotary_dim, is_neox in shapes:
            qkv = making.normal(tokens, (queries + 2 * keys) * head_size, dtype=dtype)
            ends = queries * head_size, (queries + keys) * head_size
            arguments: Arguments = {
                "positions": making.integers(tokens, below=_POSITIONS),
                # As vLLM passes them: parts of one projection.
                "query": qkv[:, : ends[0]],
                "key": qkv[:, ends[0] : ends[1]],
                "head_size": head_size,
                "cos_sin_cache": angles(rotary_dim, dtype),
                "is_neox": is_neox,
            }
            yield arguments
            if tokens == 7:
                yield {**arguments, "key": None}
                heads = arguments["query"].contiguous().view(tokens, -1, head_size)
                yield {**arguments, "query": heads, "key": None}


_HOW = {
    "vary": ("query", "key"),
    "rows": ("positions", "query", "key"),
    "inplace": ("query", "key"),
}


@checked("_C::rotary_embedding", _cases, **_HOW)
def rotary_embedding(
    positions: Tensor,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    cos_sin_cache: Tensor,
    is_neox: bool,
) -> dict[str, Expected]:
    cos, sin = cos_sin_cache[positions.flatten()].chunk(2, dim=-1)
    return {
        name: _rotate(tensor, head_size, cos, sin, is_neox)
        for name, tensor in (("query", query), ("key", key))
        if tensor is not None
    }


def _multimodal() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for tokens, sections in ((7, [16, 8, 8]), (1, [11, 11, 10]), (40, [8, 12, 12])):
            yield {
                "positions": making.integers(3, tokens, below=_POSITIONS),
                "query": making.normal(tokens, 4 * 64, dtype=dtype),
                "key": making.normal(tokens, 2 * 64, dtype=dtype),
                "head_size": 64,
                "cos_sin_cache": angles(64, dtype),
                "is_neox": True,
                "mrope_section": sections,
            }


@checked(
    "_xpu_C::multimodal_rotary_embedding", _multimodal, **{**_HOW, "rows": _HOW["vary"]}
)
def multimodal_rotary_embedding(
    positions: Tensor,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    cos_sin_cache: Tensor,
    is_neox: bool,
    mrope_section: list[int],
    mrope_interleaved: bool = False,
) -> dict[str, Expected]:
    pairs = cos_sin_cache.shape[1] // 2
    section = torch.arange(len(mrope_section)).repeat_interleave(
        torch.tensor(mrope_section)
    )
    if mrope_interleaved:
        pair = torch.arange(pairs)
        last = 3 * torch.tensor(mrope_section)[pair % 3]
        section = (pair % 3).where(pair < last, 0)
    # Each pair of a head goes by the position of its section.
    rows = cos_sin_cache[positions[section].t()]
    index = torch.arange(pairs)
    cos, sin = rows[:, index, index], rows[:, index, pairs + index]
    return {
        name: _rotate(tensor, head_size, cos, sin, is_neox)
        for name, tensor in (("query", query), ("key", key))
        if tensor is not None
    }


def _apply() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for tokens, heads, size, rotary_dim in ((7, 4, 64, 64), (1, 16, 80, 80)):
            cos, sin = angles(rotary_dim, dtype)[:tokens].chunk(2, dim=-1)
            for is_neox in (True, False):
                x = making.normal(tokens, heads, size, dtype=dtype)
                yield {
                    "output": torch.zeros_like(x),
                    "input": x,
                    "cos": cos.contiguous(),
                    "sin": sin.contiguous(),
                    "is_neox": is_neox,
                }


@checked(
    "_xpu_C::apply_rotary_emb",
    _apply,
    vary=("input",),
    rows=("output", "input", "cos", "sin"),
)
def apply_rotary_emb(
    output: Tensor, input: Tensor, cos: Tensor, sin: Tensor, is_neox: bool
) -> dict[str, Expected]:
    exact, sizes = rotated(input.double(), cos, sin, is_neox)
    return {"output": expected(exact, sizes, output)}


def _norm_cases() -> Iterator[Arguments]:
    shapes = ((7, 8, 2, 128), (1, 4, 4, 64), (33, 4, 2, 256))
    for dtype in making.HALVES:
        for tokens, queries, keys, size in shapes:
            for is_neox in (True, False):
                width = (queries + 2 * keys) * size
                yield {
                    "qkv": making.normal(tokens, width, dtype=dtype),
                    "num_heads_q": queries,
                    "num_heads_k": keys,
                    "num_heads_v": keys,
                    "head_dim": size,
                    "eps": 1e-6,
                    "q_weight": making.normal(size, dtype=dtype),
                    "k_weight": making.normal(size, dtype=dtype),
                    "cos_sin_cache": angles(size, dtype),
                    "is_neox": is_neox,
                    "position_ids": making.integers(tokens, below=_POSITIONS),
                }


@checked(
    "_C::fused_qk_norm_rope",
    _norm_cases,
    vary=("qkv",),
    rows=("qkv", "position_ids"),
    inplace=("qkv",),
)
def fused_qk_norm_rope(
    qkv: Tensor,
    num_heads_q: int,
    num_heads_k: int,
    num_heads_v: int,
    head_dim: int,
    eps: float,
    q_weight: Tensor,
    k_weight: Tensor,
    cos_sin_cache: Tensor,
    is_neox: bool,
    position_ids: Tensor,
    forced_token_heads_per_warp: int = -1,
) -> dict[str, Expected]:
    heads = qkv.double().view(len(qkv), -1, head_dim)
    ends = num_heads_q, num_heads_q + num_heads_k
    cos, sin = cos_sin_cache[position_ids].chunk(2, dim=-1)
    exact, sizes = heads.clone(), torch.zeros_like(heads)
    for part, weight in ((slice(ends[0]), q_weight), (slice(*ends), k_weight)):
        normed = rms(heads[:, part], weight, eps)
        exact[:, part], sizes[:, part] = rotated(normed, cos, sin, is_neox)
    error = (sizes * 2.0**-20).view(qkv.shape)
    return {"qkv": Expected(exact.view(qkv.shape), error=error)}
