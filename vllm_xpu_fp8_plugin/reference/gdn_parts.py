# SPDX-License-Identifier: Apache-2.0
"""What the stages of Gated DeltaNet share: projections, heads and rows of chunks.

Contracts: csrc/xpu/gdn_attn/{gdn_attn_interface.cpp, causal_conv1d.hpp,
xe_2/chunk_causal_conv1d_xe2.hpp} of vllm-xpu-kernels.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.refusals import require

CHUNK = 64
L2_EPS = 1e-6


class Projections(NamedTuple):
    """What the input projections hold, by token.

    Attributes:
        qkv: [T, conv_dim]: queries, keys and values of all heads.
        z: [T, v_heads, head_v_dim]
        b: [T, v_heads]
        a: [T, v_heads]

    """

    qkv: Tensor
    z: Tensor
    b: Tensor
    a: Tensor


def split(
    qkvz: Tensor, ba: Tensor, k_heads: int, v_heads: int, k: int, v: int, plain: bool
) -> Projections:
    """Take the projections apart.

    Args:
        qkvz: [T, k_heads * (2 k + 2 v * ratio)], by key head: query, key, the values
            of its heads, their gates; or, if `plain`, all queries, all keys, ...
        ba: [T, 2 * v_heads], likewise.
        k_heads: Of this rank, as `v_heads`.
        v_heads: A multiple of `k_heads`.
        k: Size of a key head.
        v: Size of a value head.
        plain: ``reorder_input`` of the ops.

    """
    tokens, ratio = len(qkvz), v_heads // k_heads
    sizes = [k, k, v * ratio, v * ratio]
    if plain:
        parts = qkvz.split([k_heads * size for size in sizes], -1)
        b, a = ba.chunk(2, -1)
    else:
        parts = qkvz.view(tokens, k_heads, -1).split(sizes, -1)
        b, a = ba.view(tokens, k_heads, 2 * ratio).chunk(2, -1)
    q, keys, values, z = (part.reshape(tokens, -1) for part in parts)
    return Projections(
        torch.cat((q, keys, values), -1),
        z.view(tokens, v_heads, v),
        b.reshape(tokens, v_heads),
        a.reshape(tokens, v_heads),
    )


def convolve(
    history: Tensor, inputs: Tensor, weights: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return silu of the causal convolution of each channel, and the next history.

    Args:
        history: [width - 1, channels], before `inputs`.
        inputs: [T, channels]
        weights: [channels, width]
        bias: [channels]

    Returns:
        Float32 [T, channels], and the last rows, of `history`'s shape and type.

    """
    rows = torch.cat((history, inputs))
    window = rows.float().unfold(0, weights.shape[1], 1)
    sums = (window * weights.float()).sum(-1)
    if bias is not None:
        sums += bias.float()
    return sums * sums.sigmoid(), rows[len(inputs) :]


def heads(values: Tensor, k_heads: int, k: int, v: int) -> tuple[Tensor, ...]:
    """Take [T, conv_dim] apart into queries, keys and values [T, heads, size]."""
    sizes = [k_heads * k, k_heads * k, values.shape[1] - 2 * k_heads * k]
    q, keys, vals = values.split(sizes, -1)
    return (
        q.reshape(len(q), k_heads, k),
        keys.reshape(len(q), k_heads, k),
        vals.reshape(len(q), -1, v),
    )


def normalized(x: Tensor) -> Tensor:
    """Return float32 heads of length 1."""
    values = x.float()
    return values * (values.square().sum(-1, keepdim=True) + L2_EPS).rsqrt()


def chunk_rows(starts: list[int]) -> Tensor:
    """Return the row of each token where each sequence begins a chunk of 64 rows."""
    rows: list[int] = []
    chunks = 0
    for start, end in itertools.pairwise(starts):
        rows += range(chunks * CHUNK, chunks * CHUNK + end - start)
        chunks += -(-(end - start) // CHUNK)
    return torch.tensor(rows, dtype=torch.int64)


def check_convolution(
    name: str,
    z: Tensor,
    qkvz: Tensor,
    ba: Tensor,
    conv_state: Tensor,
    weights: Tensor,
    sizes: tuple[int, int, int, int],
    activation: str,
    tokens: int,
) -> None:
    """Refuse what the host code refuses."""
    k_heads, v_heads, k, v = sizes
    contiguous = {
        "z": z,
        "projected_states_qkvz": qkvz,
        "projected_states_ba": ba,
        "conv_state of each batch": conv_state[0],
        "conv_weights": weights,
    }
    for label, tensor in contiguous.items():
        require(tensor.is_contiguous(), "{} must be contiguous", label)
    for label, tensor in (
        ("z", z),
        ("projected_states_qkvz", qkvz),
        ("projected_states_ba", ba),
    ):
        require(
            len(tensor) >= tokens,
            "{}.size(0) ({}) must be >= num_actual_tokens ({})",
            label,
            len(tensor),
            tokens,
        )
    require(
        list(z.shape[1:]) == [v_heads, v]
        and qkvz.shape[1] == k_heads * 2 * k + 2 * v * v_heads
        and ba.shape[1] == 2 * v_heads,
        "{}: z {}, projected_states_qkvz {} and projected_states_ba {} do not fit {} "
        "key heads of {} and {} value heads of {}",
        name,
        list(z.shape),
        list(qkvz.shape),
        list(ba.shape),
        k_heads,
        k,
        v_heads,
        v,
    )
    require(activation in ("silu", "swish"), "{}: activation {!r}", name, activation)
