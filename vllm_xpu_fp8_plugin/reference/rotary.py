# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding.

A pair ``(x, y)`` becomes ``(x cos - y sin, y cos + x sin)``. NeoX style pairs the
halves of a head's first `rot_dim` values, GPT-J style pairs neighbours. The rest of
a head stays. Sources: csrc/pos_encoding_kernels.cpp and
csrc/xpu/sycl/apply_rotary_emb.cpp of vllm-xpu-kernels.
"""

import contextlib

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.refusals import (
    FLOATS,
    require,
    require_all,
    require_dtype,
    require_packed,
)
from vllm_xpu_fp8_plugin.reference.registry import op


@op("_C::rotary_embedding")
def rotary_embedding(
    positions: Tensor,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    cos_sin_cache: Tensor,
    is_neox: bool,
) -> None:
    """Rotate query and key in place.

    In half precision each product is rounded, as in the kernel.

    Args:
        positions: [num_tokens] or [batch, length], int64.
        query: positions.shape + [num_heads * head_size] or [num_heads, head_size],
            tokens of any one distance.
        key: As `query`, with num_kv_heads, or None.
        head_size: Values of a head.
        cos_sin_cache: [max_position, rot_dim], cosines first, in the query's dtype.
        is_neox: NeoX or GPT-J style.

    """
    name = "rotary_embedding"
    dims = positions.dim()
    require(
        dims in (1, 2),
        "{}: positions must be [num_tokens] or [batch, length], got {}",
        name,
        list(positions.shape),
    )
    for tensor in (query, key):
        require(
            tensor is None or tensor.shape[:dims] == positions.shape,
            "{}: query, key and positions must have the same tokens, got {}, {} and {}",
            name,
            list(query.shape),
            list(key.shape) if key is not None else None,
            list(positions.shape),
        )
    require_all(name, query.dtype, key=key, cos_sin_cache=cos_sin_cache)
    rows = rows_at(name, positions.flatten(), cos_sin_cache)
    cos, sin = rows.unsqueeze(1).chunk(2, dim=-1)
    rot_dim = cos_sin_cache.shape[1]
    for heads in heads_of(name, query, key, head_size, positions.numel(), dims):
        rotate(heads[..., :rot_dim], cos, sin, is_neox)


@op("_xpu_C::apply_rotary_emb")
def apply_rotary_emb(
    output: Tensor, input: Tensor, cos: Tensor, sin: Tensor, is_neox: bool
) -> None:
    """Write `input` rotated, and what is not rotated unchanged, to `output`.

    Args:
        output: As `input`, of the same strides.
        input: [num_tokens, num_heads, head_size], heads without gaps.
        cos: [num_tokens, rot_dim / 2], in the input's dtype.
        sin: As `cos`, of the same strides.
        is_neox: NeoX or GPT-J style.

    """
    name = "apply_rotary_emb"
    require_dtype(name, "input", input, FLOATS)
    require_all(name, input.dtype, output=output, cos=cos, sin=sin)
    require(
        input.dim() == 3 and input.stride(-1) == 1,
        "{}: input must be [num_tokens, num_heads, head_size] without gaps in a "
        "head, got {} with strides {}",
        name,
        list(input.shape),
        input.stride(),
    )
    require(
        cos.dim() == 2 and cos.stride(-1) == 1 and len(cos) == len(input),
        "{}: cos must be [{}, rot_dim / 2] without gaps in a row, got {} with "
        "strides {}",
        name,
        len(input),
        list(cos.shape),
        cos.stride(),
    )
    rot_dim = 2 * cos.shape[1]
    require(
        rot_dim <= input.shape[2],
        "{}: rot_dim ({}) must be <= head_size ({})",
        name,
        rot_dim,
        input.shape[2],
    )
    for label, tensor, like in (("output", output, input), ("sin", sin, cos)):
        require(
            tensor.shape == like.shape and tensor.stride() == like.stride(),
            "{}: {} must be of shape {} and strides {}, as the kernel takes it to "
            "be; got {} and {}",
            name,
            label,
            list(like.shape),
            like.stride(),
            list(tensor.shape),
            tensor.stride(),
        )
    output.copy_(input)
    rotate(output[..., :rot_dim], cos.unsqueeze(1), sin.unsqueeze(1), is_neox)


def rotate(values: Tensor, cos: Tensor, sin: Tensor, is_neox: bool) -> None:
    """Rotate `values` [num_tokens, num_heads, rot_dim] in place."""
    if is_neox:
        x, y = values.chunk(2, dim=-1)
    else:
        x, y = values[..., ::2], values[..., 1::2]
    rotated_x, rotated_y = x * cos - y * sin, y * cos + x * sin
    x.copy_(rotated_x)
    y.copy_(rotated_y)


def rows_at(name: str, positions: Tensor, cache: Tensor) -> Tensor:
    """Return the cosines and sines [num_tokens, rot_dim] of `positions`.

    Raises:
        RuntimeError: The kernel would read outside of `cache`, or refuse it.

    """
    require_dtype(name, "cache", cache, FLOATS)
    require_all(name, torch.int64, positions=positions)
    require_packed(name, cos_sin_cache=cache)
    low, high = map(int, positions.aminmax()) if positions.numel() else (0, -1)
    require(
        low >= 0 and high < len(cache),
        "{}: positions must be in [0, {}), the rows of cos_sin_cache; got {} to {}",
        name,
        len(cache),
        low,
        high,
    )
    return cache.index_select(0, positions)


def heads_of(
    name: str,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    tokens: int,
    dims: int,
) -> list[Tensor]:
    """Return query and key as [tokens, heads, head_size], in the kernel's strides.

    It takes the distance between a key's heads to be that between the query's, and
    tokens to be of one distance.
    """
    head_stride = query.stride(-2) if query.dim() == dims + 2 else head_size
    views = []
    counts = []
    for label, tensor in (("query", query), ("key", key)):
        if tensor is None or not tokens:
            continue
        hidden = tensor.numel() // tokens
        require(
            hidden % head_size == 0,
            "{}: {} has {} values a token, no multiple of the head size {}",
            name,
            label,
            hidden,
            head_size,
        )
        counts.append(hidden // head_size)
        strides = (tensor.stride(dims - 1), head_stride, 1)
        shape = (tokens, counts[-1], head_size)
        views.append(_view(f"{name}: {label}", tensor, shape, strides))
    require(
        len(counts) < 2 or counts[0] % counts[1] == 0,
        "{}: the heads of query and key, {}, do not divide",
        name,
        counts,
    )
    return views


def _view(
    what: str, tensor: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Tensor:
    """Return `tensor` as a view of `shape`, refusing strides other than `strides`."""
    with contextlib.suppress(RuntimeError):
        view = tensor.view(shape)
        checked = zip(shape, view.stride(), strides, strict=True)
        if all(n == 1 or got == want for n, got, want in checked):
            return view
    raise RuntimeError(
        f"{what} must be [{', '.join(map(str, shape))}] in memory, of strides "
        f"{strides}, as the kernel takes it to be; got shape {list(tensor.shape)}, "
        f"strides {tensor.stride()}"
    )
