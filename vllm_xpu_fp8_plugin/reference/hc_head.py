# SPDX-License-Identifier: Apache-2.0
"""The last mix of hyper-connections: four residual streams become one.

Contract: csrc/xpu/mhc/xe_2/hc_head_fused.cpp of vllm-xpu-kernels.
"""

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.refusals import require
from vllm_xpu_fp8_plugin.reference.registry import op

_HC = 4


@op("_xpu_C::hc_head_fused")
def hc_head_fused(
    hs_flat: Tensor,
    fn: Tensor,
    hc_scale: Tensor,
    hc_base: Tensor,
    out: Tensor,
    rms_eps: float,
    hc_eps: float,
) -> None:
    """Write the sum of streams, each times the sigmoid of its mix plus `hc_eps`.

    Args:
        hs_flat: [N, 4, H], bf16.
        fn: [4, 4 H], float32: of the streams' mean square, four mixes.
        hc_scale: [1], float32, times the mixes.
        hc_base: [4], float32, added to them.
        out: [N, H], bf16, written.
        rms_eps: Added to the mean square.
        hc_eps: Added to the sigmoid.

    Raises:
        RuntimeError: Types or shapes do not fit.

    """
    name = "hc_head_fused"
    require(hs_flat.dtype == torch.bfloat16, "hs_flat must be bfloat16")
    for label, tensor in (("fn", fn), ("hc_scale", hc_scale), ("hc_base", hc_base)):
        require(tensor.dtype == torch.float32, "{} must be float32", label)
    require(out.dtype == torch.bfloat16, "out must be bfloat16")
    require(out.is_contiguous(), "{}: out must be contiguous", name)
    require(hs_flat.dim() == 3, "{}: hs_flat must be [N, HC, H]", name)
    n, streams, width = hs_flat.shape
    require(
        width % 8 == 0,
        "{}: hidden_size must be a multiple of 8 for vectorized loads/stores",
        name,
    )
    require(streams == _HC, "{}: hs_flat dim1 must be HC=4", name)
    require(list(fn.shape) == [_HC, _HC * width], "{}: fn shape mismatch", name)
    require(hc_scale.numel() == 1, "{}: hc_scale must have 1 element", name)
    require(hc_base.numel() == _HC, "{}: hc_base size mismatch", name)
    require(list(out.shape) == [n, width], "{}: out shape mismatch", name)
    values = hs_flat.float()
    flat = values.flatten(1)
    norm = (flat.square().mean(-1, keepdim=True) + rms_eps).rsqrt()
    logits = (flat @ fn.t()) * norm * hc_scale.view(()) + hc_base.view(_HC)
    mix = logits.sigmoid() + hc_eps
    out.copy_((mix.unsqueeze(-1) * values).sum(1))
