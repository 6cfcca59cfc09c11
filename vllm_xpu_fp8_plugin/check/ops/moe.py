# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts: which experts a token goes to, and the sum of what they give."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked


def _sums() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for tokens, count, width in ((7, 6, 1024), (1, 2, 128), (33, 8, 511)):
            arguments: Arguments = {
                "input": making.normal(tokens, count, width, dtype=dtype),
                "output": making.empty(tokens, width, dtype=dtype),
                "topk_ids": None,
                "expert_map": None,
            }
            yield arguments
            if width == 1024:
                ids = making.integers(tokens, count, below=8, dtype=torch.int32)
                ids[:, -1] = -1
                yield {**arguments, "topk_ids": ids}
                local = torch.arange(8).int()
                local[4:] = -1
                ids = ids.clamp(min=0)
                yield {**arguments, "topk_ids": ids, "expert_map": local}


@checked("_moe_C::moe_sum", _sums, vary=("input",), rows=("input", "output"))
def moe_sum(
    input: Tensor,
    output: Tensor,
    topk_ids: Tensor | None = None,
    expert_map: Tensor | None = None,
) -> dict[str, Expected]:
    values = input.double()
    if topk_ids is not None:
        there = topk_ids >= 0
        if expert_map is not None:
            there &= expert_map[topk_ids.clamp(min=0).long()] >= 0
        values = values * there.unsqueeze(-1)
    # Some add in the input's type, a rounding for each expert.
    sizes = values.abs().sum(1)
    steps = torch.finfo(input.dtype).eps * input.shape[1] / 2
    return {"output": Expected(values.sum(1), error=sizes * steps)}


def _gathers() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for tokens, count, width in ((7, 4, 1024), (1, 2, 128), (33, 8, 256)):
            rows = making.distinct(tokens * count, tokens * count).int()
            rows[rows >= tokens * count * 3 // 4] = -1
            yield {
                "output": making.empty(tokens, width, dtype=dtype),
                "moe_output": making.normal(tokens * count, width, dtype=dtype),
                "topk_weights": making.positive(tokens, count, high=1.0),
                "unpermuted_row_to_permuted_row": rows,
                "num_experts": 16,
            }


@checked("_moe_C::moe_gather", _gathers, vary=("moe_output",))
def moe_gather(
    output: Tensor,
    moe_output: Tensor,
    topk_weights: Tensor,
    unpermuted_row_to_permuted_row: Tensor,
    num_experts: int,
) -> dict[str, Expected]:
    rows = unpermuted_row_to_permuted_row.view(topk_weights.shape).long()
    weights = topk_weights.double() * (rows >= 0)
    parts = moe_output.double()[rows.clamp(min=0)] * weights.unsqueeze(-1)
    return {"output": Expected(parts.sum(1), error=parts.abs().sum(1) * 2.0**-20)}


def _choices(**others: float | None) -> Callable[[], Iterator[Arguments]]:
    def cases() -> Iterator[Arguments]:
        for dtype in making.FLOATS:
            for tokens, experts, count in ((7, 16, 2), (1, 512, 8), (33, 192, 5)):
                for renormalize in (True, False):
                    for bias in (None, making.normal(experts, dtype=torch.float32)):
                        name = "correction_bias" if "scale" in others else "bias"
                        scale = others.get("scale", others.get("factor"))
                        factor = {"routed_scaling_factor": scale} if scale else {}
                        yield {
                            "topk_weights": making.empty(
                                tokens, count, dtype=torch.float32
                            ),
                            "topk_indices": making.empty(
                                tokens, count, dtype=torch.int32
                            ),
                            "token_expert_indices": making.empty(
                                tokens, count, dtype=torch.int32
                            ),
                            "gating_output": making.normal(
                                tokens, experts, dtype=dtype
                            ),
                            "renormalize": renormalize,
                            name: bias,
                            **factor,
                        }

    return cases


def _chosen(
    scores: Tensor,
    bias: Tensor | None,
    weights: Tensor,
    renormalize: bool,
    factor: float = 1.0,
) -> dict[str, Expected]:
    """Return the best experts of each token, of equal ones the first."""
    ranked = scores if bias is None else scores + bias.double()
    tokens, count = weights.shape
    best = ranked.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    values = scores.gather(1, best)
    if renormalize:
        values = values / values.sum(-1, keepdim=True)
    order = torch.arange(count) * tokens + torch.arange(tokens)[:, None]
    return {
        "topk_weights": Expected(values * factor, relative=2.0**-18),
        "topk_indices": Expected(best.int()),
        "token_expert_indices": Expected(order.int()),
    }


@checked("_moe_C::topk_softmax", _choices())
def topk_softmax(
    topk_weights: Tensor,
    topk_indices: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool,
    bias: Tensor | None = None,
    is_padding: Tensor | None = None,
) -> dict[str, Expected]:
    scores = gating_output.double().softmax(-1)
    return _chosen(scores, bias, topk_weights, renormalize)


@checked("_moe_C::topk_sigmoid", _choices(factor=2.5))
def topk_sigmoid(
    topk_weights: Tensor,
    topk_indices: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool,
    bias: Tensor | None = None,
    routed_scaling_factor: float = 1.0,
    is_padding: Tensor | None = None,
) -> dict[str, Expected]:
    # A score is rounded to the type of the gate, as torch.sigmoid rounds it.
    dtype = gating_output.dtype
    scores = gating_output.double().sigmoid().to(dtype).double()
    outputs = _chosen(scores, bias, topk_weights, renormalize, routed_scaling_factor)
    return outputs


@checked("_moe_C::topk_softplus_sqrt", _choices(scale=1.5))
def topk_softplus_sqrt(
    topk_weights: Tensor,
    topk_indices: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool,
    routed_scaling_factor: float,
    correction_bias: Tensor | None = None,
    input_ids: Tensor | None = None,
    tid2eid: Tensor | None = None,
    is_padding: Tensor | None = None,
) -> dict[str, Expected]:
    scores = torch.nn.functional.softplus(gating_output.double()).sqrt()
    return _chosen(
        scores, correction_bias, topk_weights, renormalize, routed_scaling_factor
    )


def _grouped() -> Iterator[Arguments]:
    for tokens, experts, groups, count in (
        (7, 64, 8, 6),
        (1, 256, 8, 8),
        (33, 32, 4, 2),
    ):
        for scoring in (0, 1):
            for renormalize in (True, False):
                scores = making.normal(tokens, experts, dtype=torch.float32)
                yield {
                    "scores": scores if scoring else scores.softmax(-1),
                    "n_group": groups,
                    "topk_group": groups // 2,
                    "topk": count,
                    "renormalize": renormalize,
                    "routed_scaling_factor": 2.5,
                    "bias": making.normal(experts, dtype=torch.float32),
                    "scoring_func": scoring,
                }


@checked("_moe_C::grouped_topk", _grouped)
def grouped_topk(
    scores: Tensor,
    n_group: int,
    topk_group: int,
    topk: int,
    renormalize: bool,
    routed_scaling_factor: float,
    bias: Tensor,
    scoring_func: int,
) -> dict[str, Expected]:
    own = scores.double().sigmoid() if scoring_func else scores.double()
    ranked = own + bias.double()
    groups = ranked.unflatten(1, (n_group, -1))
    # A group counts by its two best experts.
    best = groups.topk(2, -1).values.sum(-1).topk(topk_group, -1).indices
    kept = torch.zeros(len(scores), n_group, dtype=torch.bool).scatter(1, best, True)
    ranked = groups.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(1)
    chosen = ranked.sort(dim=-1, descending=True, stable=True).indices[:, :topk]
    weights = own.gather(1, chosen)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return {
        "return.0": Expected(weights * routed_scaling_factor, relative=2.0**-18),
        "return.1": Expected(chosen),
    }
