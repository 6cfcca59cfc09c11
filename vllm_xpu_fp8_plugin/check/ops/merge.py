# SPDX-License-Identifier: Apache-2.0
"""Merging of attention over two parts of the keys, by their log-sum-exp."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.ops.quant import quantized
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

# The kernel takes the device's own exp and log, which OpenCL lets have 14 bits.
_NATIVE = 2.0**-12


def _cases() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for tokens, heads, size in ((7, 4, 128), (1, 32, 64), (65, 3, 80)):
            prefix, suffix = (
                making.normal(tokens, heads, size, dtype=dtype) for _ in range(2)
            )
            sums = [
                making.normal(heads, tokens, dtype=torch.float32, size=3)
                for _ in range(2)
            ]
            sums[0][0, 0] = -math.inf
            arguments: Arguments = {
                "output": torch.zeros_like(prefix),
                "output_lse": torch.zeros(heads, tokens),
                "prefix_output": prefix,
                "prefix_lse": sums[0],
                "suffix_output": suffix,
                "suffix_lse": sums[1],
            }
            yield arguments
            if tokens == 7:
                yield {**arguments, "output_lse": None}
                yield {**arguments, "prefill_tokens_with_context": 3}
                yield {
                    **arguments,
                    "output": making.empty(tokens, heads, size, dtype=making.E4M3),
                    "output_scale": making.positive(1),
                }


@checked("_C::merge_attn_states", _cases, vary=("prefix_output", "suffix_output"))
def merge_attn_states(
    output: Tensor,
    output_lse: Tensor | None,
    prefix_output: Tensor,
    prefix_lse: Tensor,
    suffix_output: Tensor,
    suffix_lse: Tensor,
    prefill_tokens_with_context: int | None = None,
    output_scale: Tensor | None = None,
) -> dict[str, Expected]:
    prefix, suffix = prefix_lse.double(), suffix_lse.double()
    # +inf is what a part without keys may have as well.
    prefix, suffix = (x.masked_fill(x == math.inf, -math.inf) for x in (prefix, suffix))
    lse = torch.logaddexp(prefix, suffix)
    empty = lse == -math.inf
    shares = [(x - lse).exp().masked_fill(empty, float(i == 0)) for i, x in
              enumerate((prefix, suffix))]  # fmt: skip
    merged = prefill_tokens_with_context
    if merged is not None:
        shares[0][:, merged:], shares[1][:, merged:] = 0.0, 1.0
        lse[:, merged:] = suffix_lse[:, merged:].double()
    parts = [
        share.t().unsqueeze(-1) * values.double()
        for share, values in zip(shares, (prefix_output, suffix_output), strict=True)
    ]
    error = sum(part.abs() for part in parts) * _NATIVE
    exact = Expected(parts[0] + parts[1], error=error)
    if output_scale is not None:
        scale = output_scale.double().flatten()[0]
        exact = replace(quantized(exact.values, scale, error))
    outputs = {"output": exact}
    if output_lse is not None:
        outputs["output_lse"] = Expected(lse, error=_NATIVE * 4)
    return outputs
