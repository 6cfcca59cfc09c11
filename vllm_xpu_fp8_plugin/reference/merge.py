# SPDX-License-Identifier: Apache-2.0
"""Merging of attention over two parts of the keys, by their log-sum-exp."""

import math

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.fp8 import quantize
from vllm_xpu_fp8_plugin.reference.refusals import (
    FLOATS,
    FP8_DTYPES,
    require,
    require_all,
    require_dtype,
    require_packed,
)
from vllm_xpu_fp8_plugin.reference.registry import op

_NAME = "merge_attn_states"

# The kernel loads 16 bytes at once.
_PACK_BYTES = 16


@op("_C::merge_attn_states")
def merge_attn_states(
    output: Tensor,
    output_lse: Tensor | None,
    prefix_output: Tensor,
    prefix_lse: Tensor,
    suffix_output: Tensor,
    suffix_lse: Tensor,
    prefill_tokens_with_context: int | None = None,
    output_scale: Tensor | None = None,
) -> None:
    """Write the attention over both parts, computed in float32.

    Section 2.2 of arXiv 2501.01005. A log-sum-exp of +inf counts as -inf; where both
    are, the prefix is taken as it is.

    Args:
        output: [num_tokens, num_heads, head_size], in the dtype of `prefix_output`,
            or FP8 with `output_scale`. Heads may be padded, tokens not.
        output_lse: [num_heads, num_tokens], float32, contiguous, or None.
        prefix_output: [num_tokens, num_heads, head_size], heads padded or not.
        prefix_lse: As `output_lse`.
        suffix_output: As `prefix_output`, of the same strides.
        suffix_lse: As `output_lse`.
        prefill_tokens_with_context: Tokens from here on have no prefix, and take the
            suffix as it is. None: all have one.
        output_scale: One value that FP8 output is divided by, or None.

    """
    lses = {"prefix_lse": prefix_lse, "suffix_lse": suffix_lse}
    _check(output, prefix_output, suffix_output, output_scale)
    _check_lses(output, output_lse=output_lse, **lses)
    tokens = output.shape[0]
    merged = prefill_tokens_with_context
    merged = tokens if merged is None else merged
    require(
        0 <= merged <= tokens,
        "{}: prefill_tokens_with_context must be <= {}, got {}",
        _NAME,
        tokens,
        merged,
    )
    weights, lse = _weights(prefix_lse[:, :merged], suffix_lse[:, :merged])
    prefix, suffix = (t[:merged].float() for t in (prefix_output, suffix_output))
    # A weight of 0 does not silence NaN or inf in the part that it belongs to.
    values = prefix * weights[0] + suffix * weights[1]
    empty = lse.t().isinf().unsqueeze(-1)
    values = torch.cat([prefix.where(empty, values), suffix_output[merged:].float()])
    if output_scale is not None:
        values = quantize(values, output_scale, output.dtype)
    output.copy_(values)
    if output_lse is not None:
        output_lse.copy_(torch.cat([lse, suffix_lse[:, merged:]], dim=1))


def _weights(prefix: Tensor, suffix: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return each part's share [num_tokens, num_heads, 1], and the merged LSE."""
    lses = [lse.masked_fill(lse.isinf(), -math.inf) for lse in (prefix, suffix)]
    top = torch.fmax(*lses)
    sums = [torch.exp(lse - top) for lse in lses]
    total = sums[0] + sums[1]
    lse = torch.log(total) + top
    shares = [(s / total).t().unsqueeze(-1) for s in sums]
    return shares, top.where(top.isinf(), lse)


def _check(
    output: Tensor, prefix: Tensor, suffix: Tensor, output_scale: Tensor | None
) -> None:
    require_dtype(_NAME, "prefix", prefix, FLOATS)
    require_all(_NAME, prefix.dtype, suffix_output=suffix)
    if output_scale is None:
        require_all(_NAME, prefix.dtype, output=output)
    else:
        require(
            output.dtype in FP8_DTYPES,
            "{}: output must be FP8 when output_scale is given, got {}",
            _NAME,
            output.dtype,
        )
        require_all(_NAME, torch.float32, output_scale=output_scale)
    pack = _PACK_BYTES // prefix.element_size()
    require(
        output.dim() == 3 and output.shape[2] % pack == 0,
        "{}: output must be [num_tokens, num_heads, head_size], the head size a "
        "multiple of {}; got {}",
        _NAME,
        pack,
        list(output.shape),
    )
    for label, tensor in (("prefix_output", prefix), ("suffix_output", suffix)):
        require(
            tensor.shape == output.shape,
            "{}: {} must be {}, got {}",
            _NAME,
            label,
            list(output.shape),
            list(tensor.shape),
        )
    _check_strides(output=output, prefix_output=prefix, suffix_output=suffix)
    require(
        suffix.shape[0] <= 1 or suffix.stride(1) == prefix.stride(1),
        "{}: suffix_output must have the strides of prefix_output, {}, as the "
        "kernel takes it to have; got {}",
        _NAME,
        prefix.stride(),
        suffix.stride(),
    )


def _check_strides(**tensors: Tensor) -> None:
    for label, tensor in tensors.items():
        tokens, heads, _ = tensor.shape
        token, head, value = tensor.stride()
        require(
            value == 1 and (tokens <= 1 or token == heads * head),
            "{}: {} must have heads of one distance and nothing between tokens, as "
            "the kernel takes it to have; got strides {}",
            _NAME,
            label,
            tensor.stride(),
        )


def _check_lses(output: Tensor, **lses: Tensor | None) -> None:
    shape = (output.shape[1], output.shape[0])
    require_all(_NAME, torch.float32, **lses)
    require_packed(_NAME, **lses)
    for label, lse in lses.items():
        require(
            lse is None or lse.shape == shape,
            "{}: {} must be [num_heads, num_tokens] = {}, got {}",
            _NAME,
            label,
            list(shape),
            list(lse.shape) if lse is not None else None,
        )
