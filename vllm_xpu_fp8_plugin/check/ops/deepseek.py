# SPDX-License-Identifier: Apache-2.0
"""DeepSeek's rotations, fused with quantisation.

Contracts: csrc/xpu/sycl/deepseek_*.cpp of vllm-xpu-kernels. A block's scale is the
least power of two with which its largest value is in the range of the type.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import FP4, Expected
from vllm_xpu_fp8_plugin.check.ops.rotary import angles, expected, rotated
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_BF16, _FLOAT = torch.bfloat16, torch.float32
FP8_MAX, _FP4_MAX = 448.0, 6.0
POSITIONS = 128
# Float32 arithmetic of rotated values.
STEPS = 2.0**-21


def block_scale(values: Tensor, block: int, largest: float, least: float) -> Tensor:
    """Return the scale of each block of the last dimension, float64."""
    most = values.unflatten(-1, (-1, block)).abs().amax(-1).clamp(min=least) / largest
    fraction, exponent = torch.frexp(most)
    return torch.exp2(exponent.double() - (fraction == 0.5).double())


def turned(
    heads: Tensor, positions: Tensor, cos_sin_cache: Tensor, *, back: bool = False
) -> tuple[Tensor, Tensor]:
    """Rotate neighbours among the last values of each head.

    Args:
        heads: [tokens, heads, size], float64.
        positions: [tokens]
        cos_sin_cache: [positions, rope_dim]: cosines, sines.
        back: Turn the other way.

    Returns:
        The result, and the sum of the magnitudes of each value's terms.

    """
    rope = cos_sin_cache.shape[1]
    cos, sin = cos_sin_cache[positions].chunk(2, -1)
    kept = heads[..., :-rope]
    result, sizes = rotated(heads[..., -rope:], cos, -sin if back else sin, False)
    return (
        torch.cat([kept, result], -1),
        torch.cat([torch.zeros_like(kept), sizes], -1),
    )


def _outputs() -> Iterator[Arguments]:
    for tokens, groups, heads in ((7, 2, 4), (1, 1, 1), (33, 8, 2), (0, 2, 2)):
        yield {
            "attn_output": making.normal(tokens, groups * heads, 512, dtype=_BF16),
            "positions": making.integers(tokens, below=POSITIONS),
            "cos_sin_cache": angles(64, _FLOAT),
            "n_groups": groups,
            "heads_per_group": heads,
            "nope_dim": 448,
            "rope_dim": 64,
        }


@checked("_xpu_C::deepseek_inv_rope_bf16", _outputs, vary=("attn_output",))
def deepseek_inv_rope_bf16(
    attn_output: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    n_groups: int,
    heads_per_group: int,
    nope_dim: int,
    rope_dim: int,
) -> dict[str, Expected]:
    shape = (len(positions), n_groups, heads_per_group * (nope_dim + rope_dim))
    exact, sizes = turned(attn_output.double(), positions, cos_sin_cache, back=True)
    return {"return": Expected(exact.view(shape), error=sizes.view(shape) * STEPS)}


@checked("_xpu_C::deepseek_inv_rope_fp8_quant", _outputs, vary=("attn_output",))
def deepseek_inv_rope_fp8_quant(
    attn_output: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    n_groups: int,
    heads_per_group: int,
    nope_dim: int,
    rope_dim: int,
) -> dict[str, Expected]:
    exact, sizes = turned(attn_output.double(), positions, cos_sin_cache, back=True)
    scale = block_scale(exact, 128, FP8_MAX, 1e-10)
    each = scale.repeat_interleave(128, -1)

    def by_group(values: Tensor) -> Tensor:
        groups: Tensor = values.unflatten(1, (n_groups, -1))
        return groups.transpose(0, 1).flatten(2)

    codes = by_group(exact / each), by_group(sizes / each)
    return {
        "return.0": Expected(codes[0], error=codes[1] * STEPS),
        "return.1": Expected(by_group(scale), roundings=0.0, relative=0.0),
    }


def _queries(packed: bool) -> Iterator[Arguments]:
    for tokens, heads in ((7, 64), (1, 4), (33, 8)):
        q = making.normal(tokens, heads, 128, dtype=_BF16)
        q[0, 0] = 0.0
        codes = (
            {
                "packed_out": making.empty(tokens, heads, 64, dtype=torch.uint8),
                "scales_out": making.empty(tokens, heads, 4, dtype=torch.uint8),
            }
            if packed
            else {"q_fp8": making.empty(tokens, heads, 128, dtype=making.E4M3)}
        )
        yield {
            "q": q,
            "positions": making.integers(tokens, below=POSITIONS),
            "cos_sin_cache": angles(64, _FLOAT),
            "index_weights": making.normal(tokens, heads, dtype=_BF16),
            "softmax_scale": 128**-0.5,
            "head_scale": 64**-0.5,
            **codes,
            "weights_out": making.empty(tokens, heads, dtype=_FLOAT),
        }


def _indexed(
    q: Tensor, positions: Tensor, cos_sin_cache: Tensor
) -> tuple[Tensor, Tensor]:
    """Return rotated queries rounded to bf16, and what that rounding may change."""
    exact, sizes = turned(q.double(), positions, cos_sin_cache)
    rounded = exact.to(_BF16).double()
    # Near the middle of two values float32 may take the other one.
    step = exact.abs() * torch.finfo(_BF16).eps
    near = (exact - rounded).abs() + sizes * STEPS >= step / 2
    return rounded, step.where(near & (sizes > 0), 0.0)


@checked(
    "_xpu_C::deepseek_fused_indexer_q_rope_fp8", lambda: _queries(False), vary=("q",)
)
def deepseek_fused_indexer_q_rope_fp8(
    q: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    index_weights: Tensor,
    softmax_scale: float,
    head_scale: float,
    q_fp8: Tensor,
    weights_out: Tensor,
) -> dict[str, Expected]:
    exact, error = _indexed(q, positions, cos_sin_cache)
    scale = block_scale(exact, q.shape[-1], FP8_MAX, 1e-4)
    weights = index_weights.double() * scale[..., 0] * softmax_scale * head_scale
    return {
        "q_fp8": Expected(exact / scale, dtype=making.E4M3, error=error / scale),
        "weights_out": Expected(weights),
    }


@checked(
    "_xpu_C::deepseek_fused_indexer_q_rope_mxfp4", lambda: _queries(True), vary=("q",)
)
def deepseek_fused_indexer_q_rope_mxfp4(
    q: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    index_weights: Tensor,
    softmax_scale: float,
    head_scale: float,
    packed_out: Tensor,
    scales_out: Tensor,
    weights_out: Tensor,
) -> dict[str, Expected]:
    exact, error = _indexed(q, positions, cos_sin_cache)
    # The least scale is float32's least normal value.
    scale = block_scale(exact, 32, _FP4_MAX, _FP4_MAX * 2.0**-126)
    each = scale.repeat_interleave(32, -1)
    return {
        "packed_out": Expected(exact / each, dtype=FP4, error=error / each),
        "scales_out": Expected((scale.log2() + 127).to(torch.uint8)),
        "weights_out": Expected(index_weights.double() * softmax_scale * head_scale),
    }


def _scaled() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for tokens, queries, keys, size, is_neox in (
            (7, 16, 1, 64, False),
            (1, 128, 1, 64, True),
            (33, 3, 2, 128, True),
            (5, 20, 2, 32, False),
        ):
            qkv = making.normal(tokens, queries + keys, size + 32, dtype=dtype)
            arguments: Arguments = {
                "positions": making.integers(tokens, below=POSITIONS // 2),
                # As vLLM passes them: the last part of each head.
                "query": qkv[:, :queries, 32:],
                "key": qkv[:, queries:, 32:],
                "offsets_opt": None,
                "cos_sin_cache": angles(size, dtype),
                "rotary_dim": size,
                "is_neox_style": is_neox,
            }
            yield arguments
            if tokens == 7:
                offsets = making.integers(tokens, below=POSITIONS // 2)
                yield {**arguments, "offsets_opt": offsets}


@checked("_xpu_C::deepseek_scaling_rope", _scaled, vary=("query", "key"))
def deepseek_scaling_rope(
    positions: Tensor,
    query: Tensor,
    key: Tensor,
    offsets_opt: Tensor | None,
    cos_sin_cache: Tensor,
    rotary_dim: int,
    is_neox_style: bool,
) -> dict[str, Expected]:
    at = positions if offsets_opt is None else positions + offsets_opt
    cos, sin = cos_sin_cache[at].chunk(2, -1)
    outputs = {}
    for i, heads in enumerate((query, key)):
        exact, sizes = rotated(heads.double(), cos, sin, is_neox_style)
        like = heads[None] if is_neox_style else heads
        outputs[f"return.{i}"] = expected(exact, sizes, like)
    return outputs
