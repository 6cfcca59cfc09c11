# SPDX-License-Identifier: Apache-2.0
"""DeepSeek's manifold-constrained hyper-connections: four residual streams.

Contract: csrc/xpu/mhc/xe_2/{mhc_pre, mhc_post, mhc_fused_post_pre}.cpp of
vllm-xpu-kernels. With 128 tokens or more the kernels multiply in TF32; here it is
float32.
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.refusals import require
from vllm_xpu_fp8_plugin.reference.registry import op

_HC = 4
_HC3 = _HC * 2 + _HC * _HC


@op("_xpu_C::mhc_pre")
def mhc_pre(
    residual: Tensor,
    fn: Tensor,
    hc_scale: Tensor,
    hc_base: Tensor,
    rms_eps: float,
    hc_pre_eps: float,
    hc_sinkhorn_eps: float,
    hc_post_mult_value: float,
    sinkhorn_repeat: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how streams are mixed behind a layer, and the layer's input.

    Args:
        residual: [..., 4, H], bf16.
        fn: [24, 4 H], float32: of the streams' mean square, 24 mixes.
        hc_scale: [3], float32: of the input's, the output's and the streams' mixes.
        hc_base: [24], float32, added to the mixes.
        rms_eps: Added to the mean square.
        hc_pre_eps: Added to the input's mixes.
        hc_sinkhorn_eps: Added to the streams' mixes and to their sums.
        hc_post_mult_value: Times the output's mixes.
        sinkhorn_repeat: How often the streams' mixes are normalised.

    Returns:
        The output's mixes [..., 4, 1] and the streams' [..., 4, 4], float32, and the
        input [..., H], bf16.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    _require_types(bf16={"residual": residual}, fn=fn, scale=hc_scale, base=hc_base)
    width = residual.shape[-1]
    require(
        width % 8 == 0,
        "mhc_pre: hidden_size must be a multiple of 8 for vectorized loads/stores",
    )
    require(residual.shape[-2] == _HC, "mhc_pre: only hc_mult=4 is supported")
    require(list(fn.shape) == [_HC3, _HC * width], "fn shape mismatch")
    require(hc_scale.numel() == 3, "hc_scale must have 3 elements")
    require(hc_base.numel() == _HC3, "hc_base must have HC3 elements")
    outer = residual.shape[:-2]
    streams = residual.reshape(-1, _HC, width).float()
    flat = streams.flatten(1)
    mean = flat.square().mean(-1, keepdim=True)
    mixes = (flat @ fn.t()) * (mean + rms_eps).rsqrt()
    scale, base = hc_scale.flatten(), hc_base.flatten()
    before = (mixes[:, :_HC] * scale[0] + base[:_HC]).sigmoid() + hc_pre_eps
    after = mixes[:, _HC : 2 * _HC] * scale[1] + base[_HC : 2 * _HC]
    after = after.sigmoid() * hc_post_mult_value
    between = mixes[:, 2 * _HC :] * scale[2] + base[2 * _HC :]
    between = _doubly_stochastic(
        between.view(-1, _HC, _HC), hc_sinkhorn_eps, sinkhorn_repeat
    )
    layer_input = (before.unsqueeze(-1) * streams).sum(1).bfloat16()
    return (
        after.view(*outer, _HC, 1),
        between.view(*outer, _HC, _HC),
        layer_input.view(*outer, width),
    )


def _doubly_stochastic(logits: Tensor, eps: float, repeat: int) -> Tensor:
    """Normalise rows and columns in turn (Sinkhorn)."""
    mix = logits.softmax(-1) + eps
    mix = mix / (mix.sum(-2, keepdim=True) + eps)
    for _ in range(repeat - 1):
        mix = mix / (mix.sum(-1, keepdim=True) + eps)
        mix = mix / (mix.sum(-2, keepdim=True) + eps)
    return mix


@op("_xpu_C::mhc_fused_post_pre")
def mhc_fused_post_pre(
    x: Tensor,
    residual: Tensor,
    post_layer_mix: Tensor,
    comb_res_mix: Tensor,
    fn: Tensor,
    hc_scale: Tensor,
    hc_base: Tensor,
    rms_eps: float,
    hc_pre_eps: float,
    hc_sinkhorn_eps: float,
    hc_post_mult_value: float,
    sinkhorn_repeat: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mix a layer's output into the streams, and return them and `mhc_pre` of them.

    Args:
        x: [N, H], bf16, the layer's output.
        residual: [N, 4, H], bf16.
        post_layer_mix: [N, 4] or [N, 4, 1], float32.
        comb_res_mix: [N, 4, 4], float32: from a stream, to a stream.
        fn: As in `mhc_pre`, and so are the others.
        hc_scale: [3]
        hc_base: [24]
        rms_eps: Added to the mean square.
        hc_pre_eps: Added to the input's mixes.
        hc_sinkhorn_eps: Added to the streams' mixes and to their sums.
        hc_post_mult_value: Times the output's mixes.
        sinkhorn_repeat: How often the streams' mixes are normalised.

    Returns:
        The streams [N, 4, H], bf16, and what `mhc_pre` returns.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "mhc_fused_post_pre"
    _require_types(
        bf16={"residual": residual, "x": x},
        post_layer_mix=post_layer_mix,
        comb_res_mix=comb_res_mix,
        fn=fn,
        scale=hc_scale,
        base=hc_base,
    )
    mix = post_layer_mix.squeeze(-1)
    require(residual.dim() == 3, "{}: residual must be [N, HC, H]", name)
    require(x.dim() == 2, "{}: x must be [N, H]", name)
    require(mix.dim() == 2, "{}: post_layer_mix must be [N, HC] or [N, HC, 1]", name)
    require(comb_res_mix.dim() == 3, "{}: comb_res_mix must be [N, HC, HC]", name)
    n, streams, width = residual.shape
    require(len(x) == n, "{}: batch mismatch", name)
    require(len(mix) == n, "{}: post_layer_mix batch mismatch", name)
    require(len(comb_res_mix) == n, "{}: comb_res_mix batch mismatch", name)
    require(streams == _HC, "{}: residual dim-2 must be HC=4", name)
    require(mix.shape[1] == _HC, "{}: post_layer_mix shape mismatch", name)
    require(
        list(comb_res_mix.shape[1:]) == [_HC, _HC],
        "{}: comb_res_mix shape mismatch",
        name,
    )
    require(width == x.shape[1], "{}: hidden size mismatch", name)
    require(
        width % 8 == 0,
        "{}: hidden_size must be a multiple of 8 for vectorized loads/stores",
        name,
    )
    require(list(fn.shape) == [_HC3, _HC * width], "{}: fn shape mismatch", name)
    require(hc_scale.numel() == 3, "{}: hc_scale must have 3 elements", name)
    require(hc_base.numel() == _HC3, "{}: hc_base must have HC3 elements", name)
    mixed = comb_res_mix.transpose(1, 2) @ residual.float()
    mixed += mix.unsqueeze(-1) * x.float().unsqueeze(1)
    current = mixed.bfloat16()
    return current, *mhc_pre(
        current,
        fn,
        hc_scale,
        hc_base,
        rms_eps,
        hc_pre_eps,
        hc_sinkhorn_eps,
        hc_post_mult_value,
        sinkhorn_repeat,
    )


def _require_types(bf16: dict[str, Tensor], **tensors: Tensor) -> None:
    """Refuse tensors that are not bf16, or, named by keyword, not float32."""
    for name, tensor in bf16.items():
        require(tensor.dtype == torch.bfloat16, "{} must be bfloat16", name)
    for name, tensor in tensors.items():
        label = f"hc_{name}" if name in ("scale", "base") else name
        require(tensor.dtype == torch.float32, "{} must be float32", label)
