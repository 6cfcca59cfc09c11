# SPDX-License-Identifier: Apache-2.0
"""DeepSeek's norm and rotation, fused with the write of its cache.

Contract: csrc/xpu/sycl/deepseek_qnorm_rope_kv_insert.cpp of vllm-xpu-kernels. A page
holds its tokens' FP8 values and bf16 rotated ones, and behind them their scales.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.ops.deepseek import (
    FP8_MAX,
    POSITIONS,
    STEPS,
    block_scale,
    turned,
)
from vllm_xpu_fp8_plugin.check.ops.rotary import angles
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_BF16, _FLOAT = torch.bfloat16, torch.float32


def _insertions() -> Iterator[Arguments]:
    for kind in ("bf16", "fp8_ds_mla"):
        for tokens, heads in ((7, 8), (1, 1), (33, 4)):
            slots = making.distinct(tokens, 4 * 16)
            slots[tokens // 2 : tokens // 2 + tokens // 3] = -1
            shape, dtype = ((4, 16, 512), _BF16)
            if kind != "bf16":
                shape, dtype = ((4, 16, 448 + 128 + 8), torch.uint8)
            yield {
                "q": making.normal(tokens, heads, 512, dtype=_BF16),
                "kv": making.normal(tokens, 512, dtype=_BF16),
                "cache": making.empty(*shape, dtype=dtype),
                "slot_mapping": slots,
                "position_ids": making.integers(tokens, below=POSITIONS),
                "cos_sin_cache": angles(64, _FLOAT),
                "eps": 1e-6,
                "block_size": 16,
                "kv_cache_dtype": kind,
            }


@checked(
    "_xpu_C::deepseek_qnorm_rope_kv_insert",
    _insertions,
    vary=("q", "kv"),
    inplace=("q",),
    largest=1e3,
)
def deepseek_qnorm_rope_kv_insert(
    q: Tensor,
    kv: Tensor,
    cache: Tensor,
    slot_mapping: Tensor,
    position_ids: Tensor,
    cos_sin_cache: Tensor,
    eps: float,
    block_size: int,
    kv_cache_dtype: str,
) -> dict[str, Expected]:
    heads = q.double()
    normed = heads * (heads.square().mean(-1, keepdim=True) + eps).rsqrt()
    exact, sizes = turned(normed, position_ids, cos_sin_cache)
    outputs = {"q": Expected(exact, error=sizes * STEPS)}
    keys, sizes = (
        x[:, 0] for x in turned(kv.double()[:, None], position_ids, cos_sin_cache)
    )
    used = slot_mapping >= 0
    slots, keys, sizes = slot_mapping[used], keys[used], sizes[used]
    block, offset = slots // block_size, slots % block_size
    if kv_cache_dtype == "bf16":
        values, error = (torch.zeros(cache.shape).double() for _ in range(2))
        written = torch.zeros(cache.shape, dtype=torch.bool)
        values[block, offset], error[block, offset] = keys, sizes * STEPS
        written[block, offset] = True
        outputs["cache"] = Expected(values, error=error, written=written)
        return outputs
    size, rope = kv.shape[1], cos_sin_cache.shape[1]
    nope, width = size - rope, size + rope
    scale = block_scale(keys[:, :nope], 64, FP8_MAX, 1e-4)
    codes = (keys[:, :nope] / scale.repeat_interleave(64, -1)).to(making.E4M3)
    tail, other = _neighbours(keys[:, nope:])
    marks = (scale.log2() + 127).to(torch.uint8)
    last = torch.cat([marks, torch.zeros(len(marks), 1, dtype=torch.uint8)], 1)
    held = torch.zeros(3, len(cache), cache[0].numel(), dtype=torch.uint8)
    for layer, end in enumerate((tail, other)):
        data = torch.cat([codes.view(torch.uint8), end], 1)
        for i, (b, o) in enumerate(zip(block.tolist(), offset.tolist(), strict=True)):
            scales = block_size * width + o * last.shape[1]
            held[layer, b, o * width : (o + 1) * width] = data[i]
            held[layer, b, scales : scales + last.shape[1]] = last[i]
            held[2, b, o * width : (o + 1) * width] = 1
            held[2, b, scales : scales + last.shape[1]] = 1
    values, alternative, written = held.view(3, *cache.shape)
    outputs["cache"] = Expected(values, alternative=alternative, written=written.bool())
    return outputs


def _neighbours(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bytes of the nearest and of the second nearest bf16 of each value."""
    nearest = values.to(_BF16)
    up = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    down = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
    second = torch.where(values > nearest.double(), up, down)
    # What is exact has no other.
    second = torch.where(values == nearest.double(), nearest, second)
    return nearest.view(torch.uint8), second.view(torch.uint8)
