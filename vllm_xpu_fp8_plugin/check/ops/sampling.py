# SPDX-License-Identifier: Apache-2.0
"""What may be sampled, and the largest logits of a row.

Which token is drawn depends on random numbers that are the kernel's own. A row that
leaves one token to draw has one answer, and the logits that are returned have one too.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked


def _samples() -> Iterator[Arguments]:
    for rows, vocab in ((5, 32000), (1, 513), (3, 128256)):
        for mode in ("raw_logits", "processed_logits", "processed_logprobs"):
            for top_k, top_p in ((1, None), (20, None), (None, None)):
                returned = making.empty(rows, vocab, dtype=torch.float32)
                yield {
                    "random_sampled": making.empty(rows, dtype=torch.int64),
                    "logits_to_return": returned if mode != "raw_logits" else None,
                    "logits": making.normal(rows, vocab, dtype=torch.float32, size=3),
                    "k": None if top_k is None else torch.full((rows,), top_k),
                    "p": None if top_p is None else torch.full((rows,), top_p),
                    "logprobs_mode": mode,
                    "seeds": torch.tensor([17, 0]),
                    "lambda": 1.0,
                }


@checked("_xpu_C::topk_topp_sampler", _samples, host=("seeds",), repeats=True)
def topk_topp_sampler(
    random_sampled: Tensor,
    logits_to_return: Tensor | None,
    logits: Tensor,
    k: Tensor | None,
    p: Tensor | None,
    logprobs_mode: str,
    seeds: Tensor,
    **options: float,
) -> dict[str, Expected]:
    if p is not None:
        raise ValueError("which tokens top-p keeps depends on rounding")
    kept = torch.ones_like(logits, dtype=torch.bool)
    if k is not None:
        order = logits.sort(-1, descending=True).values
        least = order.gather(1, (k.clamp(1, logits.shape[1]) - 1).unsqueeze(1))
        kept = logits >= least
    outputs: dict[str, Expected] = {}
    one = kept.sum(-1) == 1
    drawn = logits.argmax(-1).double().where(one, torch.nan)
    outputs["random_sampled"] = Expected(drawn, relative=0.0, roundings=0.0)
    if logits_to_return is not None and logprobs_mode.startswith("processed"):
        values = logits.double().masked_fill(~kept, -math.inf)
        error = 0.0
        if logprobs_mode == "processed_logprobs":
            values, error = values.log_softmax(-1), 2.0**-11
        outputs["logits_to_return"] = Expected(values, error=error)
    return outputs


def _tops() -> Iterator[Arguments]:
    for rows, width, count in ((4, 4096, 512), (1, 300, 64), (7, 700, 512)):
        logits = making.normal(rows, width, dtype=torch.float32)
        starts = making.integers(rows, below=50, dtype=torch.int32)
        ends = width - making.integers(rows, below=50, dtype=torch.int32)
        yield {
            "logits": logits,
            "rowStarts": starts,
            "rowEnds": ends,
            "indices": making.empty(rows, count, dtype=torch.int32),
            "numRows": rows,
            "stride0": logits.stride(0),
            "stride1": logits.stride(1),
            "topK": count,
        }


@checked("_C::top_k_per_row_prefill", _tops, repeats=False)
def top_k_per_row_prefill(
    logits: Tensor,
    rowStarts: Tensor,
    rowEnds: Tensor,
    indices: Tensor,
    numRows: int,
    stride0: int,
    stride1: int,
    topK: int,
) -> dict[str, Expected]:
    return _largest(logits, rowStarts.tolist(), rowEnds.tolist(), indices)


def _decodes() -> Iterator[Arguments]:
    for sequences, next_n, width, count in ((4, 1, 4096, 512), (3, 2, 700, 64)):
        logits = making.normal(sequences * next_n, width, dtype=torch.float32)
        yield {
            "logits": logits,
            "next_n": next_n,
            "seq_lens": width - making.integers(sequences, below=90, dtype=torch.int32),
            "indices": making.empty(sequences * next_n, count, dtype=torch.int32),
            "numRows": sequences * next_n,
            "stride0": logits.stride(0),
            "stride1": logits.stride(1),
            "topK": count,
        }


@checked("_C::top_k_per_row_decode", _decodes, repeats=False)
def top_k_per_row_decode(
    logits: Tensor,
    next_n: int,
    seq_lens: Tensor,
    indices: Tensor,
    numRows: int,
    stride0: int,
    stride1: int,
    topK: int,
) -> dict[str, Expected]:
    row = torch.arange(numRows)
    ends = seq_lens[row // next_n] - next_n + row % next_n + 1
    return _largest(logits, [0] * numRows, ends.tolist(), indices)


def _largest(
    logits: Tensor, starts: list[int], ends: list[int], indices: Tensor
) -> dict[str, Expected]:
    """Return where the largest of each row are, in no promised order."""
    count = indices.shape[1]
    exact = torch.full(indices.shape, -1, dtype=torch.int32)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        found = logits[row, start:end].topk(min(count, end - start)).indices
        exact[row, : len(found)] = found.int()
    rows = torch.arange(len(exact))[:, None].expand(exact.shape)
    return {"indices": Expected(exact, sets=rows)}
