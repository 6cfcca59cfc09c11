# SPDX-License-Identifier: Apache-2.0
"""Hyper-connections: four residual streams, mixed before and behind each layer."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected, spacing
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_HC, _MIXES = 4, 24
_SHAPES = ((1, 256), (7, 1024), (33, 512), (130, 256))
# From so many tokens on the kernels multiply in TF32, with 11 bits.
_TF32_TOKENS, _TF32 = 128, 2.0**-11
# The kernels take the device's own exp and rsqrt (sycl::native), on a CPU of 11 bits.
_NATIVE = 2.0**-11
_BF16 = torch.bfloat16


def _mixed(
    flat: Tensor, fn: Tensor, eps: float, scale: Tensor, base: Tensor
) -> tuple[Tensor, Tensor]:
    """Return logits of mixes, and what they may be off by."""
    x = flat.double()
    norm = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    part = _TF32 if len(x) >= _TF32_TOKENS else 2.0**-24 * (8 + x.shape[1] ** 0.5)
    logits = x @ fn.double().t() * norm * scale + base
    sizes = x.abs() @ fn.double().abs().t() * norm * scale.abs()
    return logits, sizes * part + (logits - base).abs() * _NATIVE


def _mixing(off: Tensor, weights: Tensor, streams: Tensor) -> Tensor:
    """Return what a sum of streams may be off by: a subnormal may count as zero."""
    sizes = streams.abs()
    lost = sizes.clamp(max=torch.finfo(torch.float32).tiny)
    return (off.unsqueeze(-1) * sizes + weights.unsqueeze(-1) * lost).sum(1)


def _pre() -> Iterator[Arguments]:
    for tokens, width in _SHAPES:
        yield {
            "residual": making.normal(tokens, _HC, width, dtype=_BF16),
            **_weights(width),
        }


def _weights(width: int) -> Arguments:
    return {
        "fn": making.normal(_MIXES, _HC * width, dtype=torch.float32, size=0.05),
        "hc_scale": making.normal(3, dtype=torch.float32),
        "hc_base": making.normal(_MIXES, dtype=torch.float32),
        "rms_eps": 1e-6,
        "hc_pre_eps": 1e-3,
        "hc_sinkhorn_eps": 1e-3,
        "hc_post_mult_value": 2.0,
        "sinkhorn_repeat": 20,
    }


@checked("_xpu_C::mhc_pre", _pre, vary=("residual",), largest=100.0)
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
) -> dict[str, Expected]:
    tokens = len(residual)
    repeats = torch.tensor([_HC, _HC, _HC * _HC])
    logits, error = _mixed(
        residual.flatten(1),
        fn,
        rms_eps,
        hc_scale.double().flatten().repeat_interleave(repeats),
        hc_base.double().flatten(),
    )
    before = logits[:, :_HC].sigmoid() + hc_pre_eps
    after = logits[:, _HC : 2 * _HC].sigmoid() * hc_post_mult_value
    comb = logits[:, 2 * _HC :].view(tokens, _HC, _HC).softmax(-1) + hc_sinkhorn_eps
    for step in range(2 * sinkhorn_repeat - 1):
        dim = -2 if step % 2 == 0 else -1
        comb = comb / (comb.sum(dim, keepdim=True) + hc_sinkhorn_eps)
    streams = residual.double()
    mixed = (before.unsqueeze(-1) * streams).sum(1)
    # The steepest slope of a sigmoid is 1/4, of a softmax's logarithm 2.
    off = error[:, :_HC] / 4 + before * _NATIVE
    spread = error[:, 2 * _HC :].amax(-1)[:, None, None]
    return {
        "return.0": Expected(
            after.unsqueeze(-1),
            error=(error[:, _HC : 2 * _HC] / 4 * hc_post_mult_value).unsqueeze(-1),
            relative=_NATIVE,
        ),
        "return.1": Expected(comb, error=4 * spread * comb, relative=4 * _NATIVE),
        "return.2": Expected(mixed, error=_mixing(off, before, streams)),
    }


def _post(x: Tensor, residual: Tensor, mix: Tensor, comb: Tensor) -> Expected:
    streams, weights = residual.double(), comb.double().transpose(1, 2)
    term = mix.double().view(len(x), _HC, 1) * x.double().unsqueeze(1)
    sizes = weights.abs() @ streams.abs() + term.abs()
    return Expected(weights @ streams + term, error=sizes * 2.0**-21)


def _post_cases() -> Iterator[Arguments]:
    for tokens, width in _SHAPES:
        yield {
            "x": making.normal(tokens, width, dtype=_BF16),
            "residual": making.normal(tokens, _HC, width, dtype=_BF16),
            "post_layer_mix": making.normal(tokens, _HC, 1, dtype=torch.float32),
            "comb_res_mix": making.normal(tokens, _HC, _HC, dtype=torch.float32),
        }


@checked(
    "_xpu_C::mhc_post",
    _post_cases,
    vary=("x", "residual"),
    rows=("x", "residual", "post_layer_mix", "comb_res_mix", "return"),
)
def mhc_post(
    x: Tensor, residual: Tensor, post_layer_mix: Tensor, comb_res_mix: Tensor
) -> dict[str, Expected]:
    return {"return": _post(x, residual, post_layer_mix, comb_res_mix)}


def _fused() -> Iterator[Arguments]:
    for arguments in _post_cases():
        yield {**arguments, **_weights(arguments["x"].shape[1])}


@checked("_xpu_C::mhc_fused_post_pre", _fused)
def mhc_fused_post_pre(
    x: Tensor,
    residual: Tensor,
    post_layer_mix: Tensor,
    comb_res_mix: Tensor,
    fn: Tensor,
    **others: Tensor | float,
) -> dict[str, Expected]:
    current = _post(x, residual, post_layer_mix, comb_res_mix)
    outputs = mhc_pre(current.values, fn, **others)
    # The streams are rounded before they are mixed: on or off by a step.
    step = spacing(current.values, _BF16) / 2
    flat = step.flatten(1) @ fn.double().abs().t()
    norm = (current.values.flatten(1).square().mean(-1, keepdim=True)).rsqrt()
    scale = torch.as_tensor(others["hc_scale"]).abs().max()
    slack = 2 * (flat * norm).amax(-1) * scale
    found = {"return.0": current}
    for i, weight in enumerate((1.0, 2.0, 0.0)):
        expected = outputs[f"return.{i}"]
        error = torch.as_tensor(expected.error)
        if i < 2:
            shape = (-1, *[1] * (expected.values.dim() - 1))
            error = error + weight * slack.view(shape)
        else:
            error = error + step.sum(1) * 1.01
            error = error + slack[:, None] * current.values.abs().sum(1)
        found[f"return.{i + 1}"] = Expected(expected.values, error=error)
    return found


def _head() -> Iterator[Arguments]:
    for tokens, width in _SHAPES:
        yield {
            "hs_flat": making.normal(tokens, _HC, width, dtype=_BF16),
            "fn": making.normal(_HC, _HC * width, dtype=torch.float32, size=0.05),
            "hc_scale": making.normal(1, dtype=torch.float32),
            "hc_base": making.normal(_HC, dtype=torch.float32),
            "out": making.empty(tokens, width, dtype=_BF16),
            "rms_eps": 1e-6,
            "hc_eps": 1e-6,
        }


@checked("_xpu_C::hc_head_fused", _head, vary=("hs_flat",), largest=100.0)
def hc_head_fused(
    hs_flat: Tensor,
    fn: Tensor,
    hc_scale: Tensor,
    hc_base: Tensor,
    out: Tensor,
    rms_eps: float,
    hc_eps: float,
) -> dict[str, Expected]:
    logits, error = _mixed(
        hs_flat.flatten(1), fn, rms_eps, hc_scale.double(), hc_base.double()
    )
    mix, streams = logits.sigmoid() + hc_eps, hs_flat.double()
    off = error / 4 + mix * _NATIVE
    exact = (mix.unsqueeze(-1) * streams).sum(1)
    return {"out": Expected(exact, error=_mixing(off, mix, streams))}
