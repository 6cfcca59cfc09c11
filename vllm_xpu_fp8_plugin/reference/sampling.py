# SPDX-License-Identifier: Apache-2.0
"""Sampling of tokens (csrc/xpu/{sampler,rand} and csrc/topk_per_row.cpp).

Random numbers follow the kernels' distribution and depend on the seeds alone; they
are not the same numbers, which come of how the kernels share out their work.
"""

import math

import numpy
import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.reference.refusals import (
    FLOATS,
    require,
    require_all,
    require_dtype,
    require_packed,
)
from vllm_xpu_fp8_plugin.reference.registry import op

_MODES = ("raw_logits", "raw_logprobs", "processed_logits", "processed_logprobs")


@op("_xpu_C::topk_topp_sampler")
def topk_topp_sampler(
    random_sampled: Tensor,
    logits_to_return: Tensor | None,
    logits: Tensor,
    k: Tensor | None,
    p: Tensor | None,
    logprobs_mode: str,
    seeds: Tensor,
    **options: float,
) -> None:
    """Sample a token a row, by ``argmax(probability / exponential noise)``.

    Tokens that tie with the last one kept are kept too.

    Args:
        random_sampled: [batch], int64, written.
        logits_to_return: [batch, vocab], float32, written in the processed modes: the
            logits, or log-probabilities of what is kept; -inf elsewhere.
        logits: [batch, vocab], float32, contiguous.
        k: [batch], int64: tokens to keep, or None for all.
        p: [batch], float32: probability to keep, of what `k` leaves; or None.
        logprobs_mode: One of vLLM's four.
        seeds: [2], int64, on the CPU: seed and offset. From 0.1.15 on also
            [batch, 2], which makes each row's sample depend on its own alone.
        **options: ``lambda``, the noise's rate, which the argmax does not depend on.

    """
    name = "topk_topp_sampler"
    _check_logits(name, logits, logits_to_return, logprobs_mode)
    require_all(name, torch.int64, random_sampled=random_sampled, k=k, seeds=seeds)
    require_all(name, torch.float32, p=p)
    for label, tensor in (("random_sampled", random_sampled), ("k", k), ("p", p)):
        require(
            tensor is None or tensor.shape == logits.shape[:1],
            "{}: {} must be [{}], got {}",
            name,
            label,
            len(logits),
            list(tensor.shape) if tensor is not None else None,
        )
    if not len(logits):
        return
    kept, probabilities = _keep(logits, k, p)
    noise = _exponential(name, logits.shape, seeds, options.get("lambda", 1.0))
    scores = (probabilities / noise).masked_fill_(~kept, -math.inf)
    random_sampled.copy_(scores.argmax(dim=-1))
    if logits_to_return is None or not logprobs_mode.startswith("processed"):
        return
    values = logits
    if logprobs_mode == "processed_logprobs":
        mass = probabilities.where(kept, 0).sum(-1, keepdim=True)
        values = (probabilities / mass).log()
    logits_to_return.copy_(values.masked_fill(~kept, -math.inf))


@op("_xpu_C::exponential_2d_")
def exponential_2d_(tensor: Tensor, seeds: Tensor, **options: float) -> None:
    """Fill `tensor` with draws of the exponential distribution of rate ``lambda``.

    No draw is 0: the least is half an epsilon of float32, divided by the rate.

    Args:
        tensor: [rows, columns], contiguous, written.
        seeds: [2], int64, on the CPU: seed and offset.
        **options: ``lambda``, the rate.

    """
    name = "exponential_2d_"
    require_dtype(name, "tensor", tensor, FLOATS)
    require(
        tensor.dim() == 2 and seeds.shape == (2,),
        "{}: tensor must be [rows, columns] and seeds [2], got {} and {}",
        name,
        list(tensor.shape),
        list(seeds.shape),
    )
    require_packed(name, tensor=tensor, seeds=seeds)
    require_all(name, torch.int64, seeds=seeds)
    rate = options["lambda"]
    draws = _exponential(name, tensor.shape, seeds, rate)
    tensor.copy_(draws.clamp_(min=torch.finfo(torch.float32).eps / 2 / rate))


@op("_C::top_k_per_row_prefill")
def top_k_per_row_prefill(
    logits: Tensor,
    rowStarts: Tensor,
    rowEnds: Tensor,
    indices: Tensor,
    numRows: int,
    stride0: int,
    stride1: int,
    topK: int,
) -> None:
    """Write where the `topK` largest of ``logits[row, start:end]`` are.

    Counted from the start, in no promised order; -1 where the range is shorter.

    Args:
        logits: [numRows, columns], float32, of strides stride0 and stride1.
        rowStarts: [numRows], int32.
        rowEnds: [numRows], int32.
        indices: [numRows, topK], int32, contiguous, written.
        numRows: Rows.
        stride0: Distance of rows.
        stride1: Distance of columns.
        topK: How many.

    """
    name = "top_k_per_row_prefill"
    _check_rows(name, logits, indices, (numRows, stride0, stride1, topK))
    require_all(name, torch.int32, rowStarts=rowStarts, rowEnds=rowEnds)
    require(
        len(rowStarts) == len(rowEnds) == numRows,
        "{}: rowStarts and rowEnds must be [{}], got {} and {}",
        name,
        numRows,
        list(rowStarts.shape),
        list(rowEnds.shape),
    )
    _top_k(logits, rowStarts.tolist(), rowEnds.tolist(), indices)


@op("_C::top_k_per_row_decode")
def top_k_per_row_decode(
    logits: Tensor,
    next_n: int,
    seq_lens: Tensor,
    indices: Tensor,
    numRows: int,
    stride0: int,
    stride1: int,
    topK: int,
) -> None:
    """As `top_k_per_row_prefill`, of each sequence's last `next_n` tokens.

    Row ``i`` is token ``i % next_n`` of sequence ``i // next_n`` and sees the logits
    up to itself. `seq_lens` is [numRows / next_n], int32.
    """
    name = "top_k_per_row_decode"
    _check_rows(name, logits, indices, (numRows, stride0, stride1, topK))
    require_all(name, torch.int32, seq_lens=seq_lens)
    require(
        len(seq_lens) == numRows // next_n,
        "{}: seq_lens must be [{}], got {}",
        name,
        numRows // next_n,
        list(seq_lens.shape),
    )
    rows = torch.arange(numRows)
    ends = seq_lens[rows // next_n] - next_n + rows % next_n + 1
    _top_k(logits, [0] * numRows, ends.tolist(), indices)


def _top_k(logits: Tensor, starts: list[int], ends: list[int], indices: Tensor) -> None:
    top_k = indices.shape[1]
    indices.fill_(-1)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        length = max(0, end - start)
        if length <= top_k:
            indices[row, :length] = torch.arange(length)
        else:
            indices[row] = logits[row, start:end].topk(top_k, sorted=False).indices


def _keep(logits: Tensor, k: Tensor | None, p: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which tokens may be sampled, and probabilities after `k`."""
    vocab = logits.shape[1]
    kept = torch.ones_like(logits, dtype=torch.bool)
    values = logits
    candidates = vocab
    if k is not None:
        values = logits.masked_fill(logits.isnan(), -math.inf)
        k = k.clamp(1, vocab)
        candidates = max([n for n in k.tolist() if n < vocab] or [vocab])
        # Rows that keep all have no threshold among the candidates.
        least = values.topk(candidates).values.gather(
            1, k.clamp(max=candidates).unsqueeze(1) - 1
        )
        kept = (values >= least) | (k == vocab).unsqueeze(1)
        values = values.masked_fill(~kept, -math.inf)
        candidates = int(kept.sum(-1).max())
    probabilities = values.softmax(dim=-1)
    if p is not None:
        top = probabilities.topk(candidates).values
        below = (top.cumsum(-1) < p.unsqueeze(1)).sum(-1, keepdim=True)
        least = top.gather(1, below.clamp(max=candidates - 1))
        kept &= (probabilities >= least) | (p == 1).unsqueeze(1)
    return kept, probabilities


def _exponential(name: str, shape: torch.Size, seeds: Tensor, rate: float) -> Tensor:
    """Return float32 draws [rows, columns], of one stream or of one a row."""
    require(
        seeds.shape in ((2,), (shape[0], 2)) and seeds.device.type == "cpu",
        "{}: seeds must be [2], or [{}, 2], on the CPU; got {} on {}",
        name,
        shape[0],
        list(seeds.shape),
        seeds.device,
    )
    streams = seeds.view(-1, 2).tolist()
    draws = numpy.empty(tuple(shape), dtype=numpy.float32)
    for part, (seed, offset) in zip(
        numpy.split(draws, len(streams)), streams, strict=True
    ):
        bits = numpy.random.Philox(key=seed % 2**64, counter=offset % 2**64)
        numpy.random.Generator(bits).standard_exponential(out=part, dtype=numpy.float32)
    return torch.from_numpy(draws).div_(rate).clamp_(min=torch.finfo().eps / 2 / rate)


def _check_logits(
    name: str, logits: Tensor, logits_to_return: Tensor | None, logprobs_mode: str
) -> None:
    require(
        logprobs_mode in _MODES,
        "{}: logprobs_mode must be one of {}, got {!r}",
        name,
        _MODES,
        logprobs_mode,
    )
    require(logits.dim() == 2, "{}: logits must be 2-D, got {}-D", name, logits.dim())
    require_packed(name, logits=logits, logits_to_return=logits_to_return)
    require_all(name, torch.float32, logits=logits, logits_to_return=logits_to_return)
    shape = None if logits_to_return is None else logits_to_return.shape
    require(
        shape == logits.shape
        or (shape is None and not logprobs_mode.startswith("processed")),
        "{}: logits_to_return must be {} in mode {}, got {}",
        name,
        list(logits.shape),
        logprobs_mode,
        list(shape) if shape is not None else None,
    )


def _check_rows(
    name: str, logits: Tensor, indices: Tensor, expected: tuple[int, int, int, int]
) -> None:
    num_rows, stride0, stride1, top_k = expected
    require_all(name, torch.float32, logits=logits)
    require_all(name, torch.int32, indices=indices)
    require_packed(name, indices=indices)
    require(
        len(logits) == num_rows and logits.stride() == (stride0, stride1),
        "{}: logits must have {} rows and strides {}, got {} and {}",
        name,
        num_rows,
        (stride0, stride1),
        len(logits),
        logits.stride(),
    )
    require(
        indices.shape == (num_rows, top_k),
        "{}: indices must be [{}, {}], got {}",
        name,
        num_rows,
        top_k,
        list(indices.shape),
    )
