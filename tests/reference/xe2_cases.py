# SPDX-License-Identifier: Apache-2.0
"""Runs compiled ops beside attention that use Xe2 instructions; prints their errors.

A process of its own, since they are compiled code in none but those that were started
with VLLM_XPU_FP8_VIRTUAL_OPS=compiled.
"""

import json
import sys

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin import virtual_xpu

E4M3 = torch.float8_e4m3fn
HEADS, SIZE = 64, 128


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _logits(q: Tensor, keys: Tensor, scales: Tensor, weights: Tensor) -> Tensor:
    """Sum of each head's positive scores: [tokens, keys], float64."""
    scores = torch.einsum("thd,nd->htn", q.double(), keys.double()) * scales.double()
    return (scores.relu() * weights.double().t()[..., None]).sum(0)


def _off(got: Tensor, exact: Tensor) -> float:
    """Return the largest error over the largest value; inf where a mask differs."""
    if not torch.equal(got.isneginf(), exact.isneginf()):
        return float("inf")
    seen = ~exact.isneginf()
    return float((got.double() - exact)[seen].abs().max() / exact[seen].abs().max())


def mqa_logits() -> float:
    """7 tokens that see other parts of 150 keys each."""
    draw = _draw(1)
    q = torch.randn(7, HEADS, SIZE, generator=draw).to(E4M3)
    keys = torch.randn(150, SIZE, generator=draw).to(E4M3)
    scales, weights = torch.rand(150, generator=draw), torch.randn(7, HEADS)
    first = torch.tensor([0, 0, 3, 64, 63, 149, 20], dtype=torch.int32)
    end = torch.tensor([150, 1, 64, 65, 129, 150, 20], dtype=torch.int32)
    given = (q, keys, scales, weights, first, end)
    got = torch.ops._xpu_C.fp8_mqa_logits(*(t.xpu() for t in given)).cpu()
    exact = _logits(q, keys, scales, weights)
    at = torch.arange(150)
    seen = (at >= first[:, None]) & (at < end[:, None])
    return _off(got, exact.masked_fill(~seen, -torch.inf))


def paged_mqa_logits() -> float:
    """Three sequences whose last page is full, almost full and of one key."""
    draw, lengths, next_n = _draw(2), [128, 63, 65], 2
    q = torch.randn(3, next_n, HEADS, SIZE, generator=draw).to(E4M3)
    keys = torch.randn(8, 64, SIZE, generator=draw).to(E4M3)
    scales = torch.rand(8, 64, generator=draw)
    weights = torch.randn(3 * next_n, HEADS, generator=draw)
    codes = keys.view(torch.uint8).flatten(1)
    bits = scales.contiguous().view(torch.uint8)
    cache = torch.cat([codes, bits], dim=1).view(8, 64, 1, SIZE + 4)
    pages = torch.tensor([[5, 0], [7, 0], [2, 1]], dtype=torch.int32)
    given = (q, cache, weights, torch.tensor(lengths, dtype=torch.int32), pages)
    arguments = [t.xpu() for t in given]
    got = torch.ops._xpu_C.fp8_paged_mqa_logits(*arguments, None, 200).cpu()
    exact = torch.full((3 * next_n, 200), -torch.inf, dtype=torch.float64)
    for i, length in enumerate(lengths):
        own = keys[pages[i]].flatten(0, 1), scales[pages[i]].flatten()
        rows = slice(i * next_n, (i + 1) * next_n)
        logits = _logits(q[i], *own, weights[rows])
        for token in range(next_n):
            seen = length - next_n + token + 1
            exact[i * next_n + token, :seen] = logits[token, :seen]
    return _off(got, exact)


def mhc_pre(tokens: int) -> float:
    """Mixes of four streams; from 128 tokens on by tf32 products."""
    draw, size = _draw(3), 4 * 4096
    residual = torch.randn(tokens, 4, 4096, generator=draw).bfloat16()
    fn = torch.randn(24, size, generator=draw) / size**0.5
    scale, base = torch.rand(3, generator=draw), torch.randn(24, generator=draw)
    op = torch.ops._xpu_C.mhc_pre
    arguments = [t.xpu() for t in (residual, fn, scale, base)]
    post = op(*arguments, 1e-6, 1e-3, 1e-3, 1.0, 20)[0].cpu()
    flat = residual.double().flatten(1)
    mixes = flat @ fn.double().t() * torch.rsqrt(flat.square().mean(1, True) + 1e-6)
    exact = torch.sigmoid(mixes[:, 4:8] * scale[1].double() + base[4:8].double())
    return _off(post.flatten(1), exact)


def small_heads() -> str:
    """Return what the convolution of a GDN layer says of heads of 32."""
    op = torch.ops._xpu_C.causal_conv1d_non_spec.default
    given = {
        **{"num_k_heads": 1, "num_v_heads": 1, "head_k_dim": 32, "head_v_dim": 32},
        **{"num_prefills": 1, "num_decodes": 0, "num_spec_decodes": 0},
        **{"num_actual_tokens": 1, "tp_size": 1, "activation": "silu"},
        "reorder_input": False,
    }
    arguments = [
        given.get(a.name, None if "Optional" in str(a.type) else torch.zeros(1).xpu())
        for a in op._schema.arguments
    ]
    try:
        op(*arguments)
    except NotImplementedError as e:
        return str(e)
    return ""


if __name__ == "__main__":
    virtual_xpu.enable()
    found = {
        "mqa_logits": mqa_logits(),
        "paged_mqa_logits": paged_mqa_logits(),
        "mhc_pre, 3 tokens": mhc_pre(3),
        "mhc_pre, 130 tokens": mhc_pre(130),
        "small heads": small_heads(),
    }
    json.dump(found, sys.stdout)
