# SPDX-License-Identifier: Apache-2.0
"""Products of each token with the weights of its own LoRA adapter."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked


def _indices(tokens: int, adapters: int) -> Tensor:
    """Return an adapter a token, -1 for none if there are several tokens."""
    chosen = making.integers(tokens, below=adapters)
    if tokens > 2:
        chosen[1] = -1
    return chosen


def _cases(shrinks: bool, sliced: bool = False) -> Callable[[], Iterator[Arguments]]:
    def cases() -> Iterator[Arguments]:
        for dtype in making.HALVES:
            for tokens, adapters, rank, hidden in ((7, 3, 16, 512), (1, 1, 8, 128)):
                sizes = (rank, hidden) if shrinks else (hidden, rank)
                width = 2 * sizes[0] if sliced else sizes[0]
                arguments: Arguments = {
                    "outputs": making.normal(tokens, width, dtype=dtype),
                    "inputs": making.normal(
                        tokens, sizes[1], dtype=dtype if shrinks else torch.float32
                    ),
                    "weights": making.normal(adapters, *sizes, dtype=dtype),
                    "indices": _indices(tokens, adapters),
                }
                if shrinks:
                    yield {**arguments, "scale": 0.5}
                    continue
                if sliced:
                    arguments |= {"slice_offset": sizes[0], "slice_size": sizes[0]}
                for adds in (True, False):
                    yield {**arguments, "add_to_output": adds}

    return cases


def _product(inputs: Tensor, weights: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's product in float64, and the sum of its magnitudes."""
    weights = weights.view(-1, *weights.shape[-2:])
    chosen = weights.double()[indices.clamp(min=0)]
    exact = torch.einsum("ti,toi->to", inputs.double(), chosen)
    sizes = torch.einsum("ti,toi->to", inputs.double().abs(), chosen.abs())
    return exact, sizes


def _written(outputs: Tensor, indices: Tensor) -> Tensor:
    """Return what is written: a token without an adapter stays as it is."""
    return (indices >= 0)[:, None].expand(outputs.shape).clone()


@checked("_xpu_C::bgmv_shrink", _cases(True), vary=("inputs",), inplace=("outputs",))
def bgmv_shrink(
    outputs: Tensor, inputs: Tensor, weights: Tensor, indices: Tensor, scale: float
) -> dict[str, Expected]:
    # It adds, as its comment says; vLLM clears the outputs before.
    product, sizes = _product(inputs, weights, indices)
    eps = torch.finfo(outputs.dtype).eps
    error = (sizes * 2.0**-20 + product.abs() * eps) * scale
    exact = outputs.double() + product * scale
    return {"outputs": Expected(exact, error=error, written=_written(outputs, indices))}


@checked("_xpu_C::bgmv_expand", _cases(False), vary=("inputs",), inplace=("outputs",))
def bgmv_expand(
    outputs: Tensor,
    inputs: Tensor,
    weights: Tensor,
    indices: Tensor,
    add_to_output: bool,
) -> dict[str, Expected]:
    return bgmv_expand_slice(
        outputs, inputs, weights, indices, 0, outputs.shape[1], add_to_output
    )


@checked(
    "_xpu_C::bgmv_expand_slice",
    _cases(False, sliced=True),
    vary=("inputs",),
    inplace=("outputs",),
)
def bgmv_expand_slice(
    outputs: Tensor,
    inputs: Tensor,
    weights: Tensor,
    indices: Tensor,
    slice_offset: int,
    slice_size: int,
    add_to_output: bool,
) -> dict[str, Expected]:
    part = slice(slice_offset, slice_offset + slice_size)
    product, sizes = _product(inputs, weights, indices)
    # The product is rounded before it is added.
    before = outputs.double()[:, part] if add_to_output else torch.zeros(()).double()
    eps = torch.finfo(outputs.dtype).eps if add_to_output else 0.0
    exact, error = outputs.double().clone(), torch.zeros_like(outputs.double())
    exact[:, part] = product + before
    error[:, part] = sizes * 2.0**-20 + product.abs() * eps
    written = torch.zeros(outputs.shape, dtype=torch.bool)
    written[:, part] = _written(product, indices)
    return {"outputs": Expected(exact, error=error, written=written)}


def _slices(shrinks: bool) -> Callable[[], Iterator[Arguments]]:
    """Return calls for projections that are fused, such as queries, keys, values."""

    def cases() -> Iterator[Arguments]:
        for dtype in making.HALVES:
            for tokens, adapters, rank, hidden in ((7, 3, 16, 512), (1, 1, 8, 128)):
                widths = (hidden, hidden // 2, hidden // 2)
                sizes = [(rank, hidden) if shrinks else (n, rank) for n in widths]
                weights = [making.normal(adapters, 1, *s, dtype=dtype) for s in sizes]
                base: Arguments = {"lora_indices": _indices(tokens, adapters).int()}
                if shrinks:
                    yield {
                        **base,
                        "inputs": making.normal(tokens, hidden, dtype=dtype),
                        "lora_a_weights": weights,
                        "output_tensor": making.empty(
                            len(widths), tokens, rank, dtype=torch.float32
                        ),
                        "scaling": 0.5,
                    }
                    continue
                inputs = making.normal(len(widths), tokens, rank, dtype=torch.float32)
                for adds in (True, False):
                    yield {
                        **base,
                        "inputs": inputs,
                        "lora_b_weights": weights,
                        "output_tensor": making.normal(
                            tokens, sum(widths), dtype=dtype
                        ),
                        "offset_start": 0,
                        "add_inputs": adds,
                    }

    return cases


@checked("_xpu_C::lora_shrink", _slices(True), vary=("inputs",))
def lora_shrink(
    inputs: Tensor,
    lora_a_weights: list[Tensor],
    output_tensor: Tensor,
    lora_indices: Tensor,
    scaling: float,
) -> dict[str, Expected]:
    # Of a token without an adapter it writes zeros.
    there = (lora_indices >= 0)[:, None]
    parts = [_product(inputs, w, lora_indices.long()) for w in lora_a_weights]
    exact = torch.stack([(p * scaling).where(there, 0.0) for p, _ in parts])
    error = torch.stack([s * abs(scaling) * 2.0**-20 for _, s in parts])
    return {"output_tensor": Expected(exact, error=error)}


@checked(
    "_xpu_C::lora_expand", _slices(False), vary=("inputs",), inplace=("output_tensor",)
)
def lora_expand(
    inputs: Tensor,
    lora_b_weights: list[Tensor],
    output_tensor: Tensor,
    lora_indices: Tensor,
    offset_start: int,
    add_inputs: bool,
) -> dict[str, Expected]:
    exact, error = output_tensor.double().clone(), torch.zeros_like(output_tensor)
    error = error.double()
    written = torch.zeros(output_tensor.shape, dtype=torch.bool)
    eps = torch.finfo(output_tensor.dtype).eps if add_inputs else 0.0
    start = offset_start
    for rows, weights in zip(inputs, lora_b_weights, strict=True):
        part = slice(start, start + weights.shape[-2])
        start = part.stop
        product, sizes = _product(rows, weights, lora_indices.long())
        before = output_tensor.double()[:, part] if add_inputs else 0.0 * product
        exact[:, part] = product + before
        error[:, part] = sizes * 2.0**-20 + product.abs() * eps
        written[:, part] = _written(product, lora_indices)
    return {"output_tensor": Expected(exact, error=error, written=written)}
