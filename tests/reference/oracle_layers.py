# SPDX-License-Identifier: Apache-2.0
"""Norms, activations, rotary embedding and merging from their definitions, float64."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def rms_norm(
    x: Tensor, weight: Tensor | None, epsilon: float, plus: float = 0.0
) -> Tensor:
    """``x / sqrt(mean(x ** 2) + epsilon) * (weight + plus)``, mean of a row."""
    x = x.double()
    normed = x / ((x * x).mean(-1, keepdim=True) + epsilon).sqrt()
    return normed if weight is None else normed * (weight.double() + plus)


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    plus: float = 0.0,
) -> Tensor:
    """``(x - mean) / sqrt(var + epsilon) * (weight + plus) + bias``, var biased."""
    x = x.double()
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / ((centred * centred).mean(-1, keepdim=True) + epsilon).sqrt()
    if weight is not None:
        normed = normed * (weight.double() + plus)
    return normed if bias is None else normed + bias.double()


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """``x P(X <= x)`` of a standard normal X."""
    return x * torch.special.erfc(-x / math.sqrt(2)) / 2


def gelu_tanh(x: Tensor) -> Tensor:
    return x / 2 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def quick_gelu(x: Tensor) -> Tensor:
    return x * sigmoid(1.702 * x)


def relu_squared(x: Tensor) -> Tensor:
    return x.clamp(min=0) ** 2


def rotated(values: Tensor, cos: Tensor, sin: Tensor, is_neox: bool) -> Tensor:
    """Rotate one head [head_size] by one position's cos and sin [rot_dim / 2]."""
    result = values.double().clone()
    half = len(cos)
    for pair in range(half):
        i, j = (pair, half + pair) if is_neox else (2 * pair, 2 * pair + 1)
        x, y = float(values[i]), float(values[j])
        c, s = float(cos[pair]), float(sin[pair])
        result[i], result[j] = x * c - y * s, y * c + x * s
    return result


def rotated_heads(
    values: Tensor,
    cos_sin: Callable[[int], Tensor],
    is_neox: bool,
) -> Tensor:
    """Rotate [num_tokens, num_heads, head_size].

    ``cos_sin(token)`` are the cosines and sines of the token, [2, rot_dim / 2].
    """
    result = values.double().clone()
    for token in range(values.shape[0]):
        cos, sin = cos_sin(token)
        for head in range(values.shape[1]):
            result[token, head] = rotated(values[token, head], cos, sin, is_neox)
    return result


def merged(parts: list[tuple[Tensor, float]]) -> tuple[Tensor, float]:
    """Merge attention outputs [head_size], each with its log-sum-exp."""
    total = sum(math.exp(lse) for _, lse in parts)
    output = sum(math.exp(lse) / total * out.double() for out, lse in parts)
    assert isinstance(output, Tensor)
    return output, math.log(total)
