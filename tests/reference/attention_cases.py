# SPDX-License-Identifier: Apache-2.0
"""Runs attention's own compiled code on batches; as a program, prints what came out.

A process of its own, since attention is compiled code in none but those that were
started with VLLM_XPU_FP8_VIRTUAL_OPS=compiled.
"""

import json
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.reference import oracle
from vllm_xpu_fp8_plugin import virtual_xpu

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
HALF, BRAIN = torch.float16, torch.bfloat16


@dataclass(frozen=True)
class Case:
    """A batch.

    Attributes:
        lengths: Of each sequence's queries and keys.
        dtype: Of the queries, and of keys and values unless `cache` is another.
        cache: FP8 type of keys and values, or None.
        query: FP8 type of queries, or None; `dtype` is then the result's.
        page: Tokens of a page, 0 for keys that are not paged.
        heads: Of queries, and of keys.
        size: Of a head.
        causal: As in the op.
        window: Likewise.
        sink: Whether heads have a sink.
        loud: What queries are multiplied by: of large logits the largest counts.
        splits: Parts that a sequence's keys are split into, None for the op's choice.

    """

    lengths: tuple[tuple[int, int], ...]
    dtype: torch.dtype = BRAIN
    cache: torch.dtype | None = None
    query: torch.dtype | None = None
    page: int = 64
    heads: tuple[int, int] = (4, 2)
    size: int = 64
    causal: bool = True
    window: tuple[int, int] = (-1, -1)
    sink: bool = False
    loud: float = 1.0
    splits: int | None = None


# About each boundary of a page or a tile of 64 keys, one by one.
_ONE_QUERY = tuple((1, n) for n in (*range(1, 71), *range(126, 131), 192, 193, 513))
_RAGGED = ((1, 1), (7, 70), (33, 133), (64, 64), (65, 65), (5, 69), (1, 200), (17, 17))


def _drawn(seed: int) -> tuple[tuple[int, int], ...]:
    """Return the lengths of a batch, a property test's draw."""
    draw = torch.Generator().manual_seed(seed)
    keys = torch.randint(1, 150, (6,), generator=draw).tolist()
    return tuple(
        (int(torch.randint(1, min(n, 40) + 1, (1,), generator=draw)), n) for n in keys
    )


CASES = {
    "decode": Case(_ONE_QUERY),
    "decode, split": Case(_ONE_QUERY, splits=3),
    "decode, e4m3": Case(_ONE_QUERY, cache=E4M3),
    "decode, e5m2, half": Case(_ONE_QUERY, HALF, cache=E5M2, splits=2),
    "decode, 128, half": Case(_ONE_QUERY, HALF, size=128, heads=(8, 1)),
    "decode, 256, e4m3": Case(_ONE_QUERY, size=256, cache=E4M3, splits=3),
    "decode, large logits": Case(_ONE_QUERY, loud=100.0, splits=3),
    "prefill, large logits": Case(_RAGGED, loud=100.0),
    "prefill": Case(_RAGGED),
    "prefill, 256": Case(_RAGGED, size=256),
    "prefill, e4m3, half": Case(_RAGGED, HALF, cache=E4M3),
    "prefill, e5m2": Case(_RAGGED, cache=E5M2),
    "decode, window": Case(_ONE_QUERY, size=128, window=(31, 0)),
    "prefill, window": Case(_RAGGED, size=128, window=(20, 0)),
    "prefill, window, sink": Case(_RAGGED, window=(20, 0), sink=True),
    "decode, sink": Case(_ONE_QUERY, sink=True),
    "prefill, sink": Case(_RAGGED, sink=True),
    "encoder": Case(tuple((n, n) for n, _ in _RAGGED), page=0, causal=False),
    "encoder, 32": Case(((5, 5), (70, 70)), HALF, page=0, causal=False, size=32),
    "causal, 192": Case(tuple((n, n) for n, _ in _RAGGED), page=0, size=192),
    **{f"prefill, drawn {seed}": Case(_drawn(seed)) for seed in range(4)},
}
# Only Xe3P has kernels for these.
FP8_QUERIES = {
    f"{kind}, {name}": Case(lengths, HALF, cache=fp8, query=fp8, size=128)
    for kind, lengths in (("decode", _ONE_QUERY), ("prefill", _RAGGED))
    for name, fp8 in (("e4m3", E4M3), ("e5m2", E5M2))
}


def _pages(
    case: Case, lengths: list[int], seed: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Return caches, the block table, and each sequence's keys and values."""
    stored = case.cache or case.dtype
    counts = [-(-n // case.page) for n in lengths]
    order = torch.randperm(sum(counts) + 2, generator=seed)
    shape = (len(order), case.page, case.heads[1], case.size)
    caches = [torch.randn(shape, generator=seed).to(stored) for _ in range(2)]
    table = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
    sequences, used = [], 0
    for i, (n, count) in enumerate(zip(lengths, counts, strict=True)):
        pages = order[used : used + count]
        used += count
        table[i, :count] = pages
        keys, values = (c.float()[pages].flatten(0, 1)[:n] for c in caches)
        sequences.append((keys, values))
    return caches[0], caches[1], table, sequences


def error(case: Case) -> tuple[float, float]:
    """Return a batch's largest error, and the largest value among its inputs.

    Of FP8 queries, whose weights are rounded to FP8 as well, an error is by the sum of
    the values' sizes by their weights, and the other is 1.
    """
    seed = torch.Generator().manual_seed(3)
    query_lengths = [q for q, _ in case.lengths]
    lengths = [k for _, k in case.lengths]
    starts = torch.tensor([0, *query_lengths]).cumsum(0).int()
    starts_k = torch.tensor([0, *lengths]).cumsum(0).int()
    q = torch.randn(sum(query_lengths), case.heads[0], case.size, generator=seed)
    q = (q * case.loud).to(case.query or case.dtype)
    table = None
    if case.page:
        k, v, table, sequences = _pages(case, lengths, seed)
    else:
        shape = (sum(lengths), case.heads[1], case.size)
        k, v = (torch.randn(shape, generator=seed).to(case.dtype) for _ in range(2))
        ends = list(zip(starts_k.tolist(), starts_k.tolist()[1:], strict=False))
        sequences = [(k[a:b], v[a:b]) for a, b in ends]
    sink = torch.randn(case.heads[0], generator=seed).to(case.dtype)
    scales = (0.5, 1.5) if case.cache else (1.0, 1.0)
    query_scale = 0.75 if case.query else 1.0
    given = {
        "q": q,
        "k": k,
        "v": v,
        "cu_seqlens_q": starts,
        "cu_seqlens_k": starts_k,
        "seqused_k": torch.tensor(lengths).int() if case.page else None,
        "block_table": table,
        "softmax_scale": case.size**-0.5,
        "is_causal": case.causal,
        "window_size_left": case.window[0],
        "window_size_right": case.window[1],
        "max_seqlen_q": max(query_lengths),
        "max_seqlen_k": max(lengths),
        "q_scale": torch.tensor(query_scale) if case.query else None,
        "k_scale": torch.tensor(scales[0]) if case.cache else None,
        "v_scale": torch.tensor(scales[1]) if case.cache else None,
        "softmax_sink": sink if case.sink else None,
        "num_splits": case.splits,
    }
    unasked = {"bool": False, "float": 0.0}
    op = torch.ops._vllm_fa2_C.varlen_fwd.default
    arguments = [
        given.get(a.name, unasked.get(str(a.type))) for a in op._schema.arguments
    ]
    out = op(*(a.xpu() if isinstance(a, Tensor) else a for a in arguments))[0].cpu()
    errors = []
    for i, (keys, values) in enumerate(sequences):
        part = slice(int(starts[i]), int(starts[i + 1]))

        def exact(values: Tensor, part: slice = part, keys: Tensor = keys) -> Tensor:
            out, _ = oracle.attention(
                q[part].double() * query_scale,
                keys.double() * scales[0],
                values.double() * scales[1],
                case.size**-0.5,
                case.causal,
                case.window,
                sink if case.sink else None,
            )
            return out

        wrong = (out[part].double() - exact(values)).abs()
        if case.query:
            wrong /= exact(values.abs()).clamp_min(2.0**-20)
        errors.append(wrong.max())
    # Of a NaN and numbers the NaN.
    largest = 1.0 if case.query else float(v.float().abs().max()) * scales[1]
    return float(torch.stack(errors).max()), largest


if __name__ == "__main__":
    virtual_xpu.enable()
    cases = FP8_QUERIES if sys.argv[1:] == ["fp8-queries"] else CASES
    found = {name: error(case) for name, case in cases.items()}
    json.dump(found, sys.stdout)
