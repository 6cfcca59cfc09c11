# SPDX-License-Identifier: Apache-2.0
"""Reads of the KV cache, and copies and conversion of whole blocks."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected, bits
from vllm_xpu_fp8_plugin.check.ops.cache import fp8_of
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked


def _pages(lengths: list[int], block: int, pages: int) -> Arguments:
    """Return a table of pages, and where each sequence starts in the result."""
    most = max(-(-n // block) for n in lengths) + 1
    table = torch.stack([making.distinct(pages, pages)[:most] for _ in lengths])
    starts = torch.tensor([0, *lengths]).cumsum(0)
    return {"block_table": table.int(), "cu_seq_lens": starts.int()}


def _locations(
    table: Tensor, starts: Tensor, first: Tensor | None, block: int
) -> tuple[Tensor, Tensor]:
    """Return page and offset of each token of the result."""
    lengths = starts.diff()
    sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
    position = torch.arange(int(lengths.sum())) - starts[sequence]
    if first is not None:
        position = position + first[sequence]
    return table[sequence, position // block].long(), position % block


def _gathers() -> Iterator[Arguments]:
    for dtype in (*making.FLOATS, making.E4M3):
        for lengths in ([20, 5], [1], [33, 16, 48]):
            cache = making.normal(8, 16, 96, dtype=dtype)
            yield {
                "src_cache": cache,
                "dst": making.empty(sum(lengths), 96, dtype=dtype),
                **_pages(lengths, 16, 8),
                "batch_size": len(lengths),
                "seq_starts": None,
            }
    starts = torch.tensor([16, 0], dtype=torch.int32)
    yield {
        "src_cache": making.normal(8, 16, 96, dtype=torch.float16),
        "dst": making.empty(25, 96, dtype=torch.float16),
        **_pages([20, 5], 16, 8),
        "batch_size": 2,
        "seq_starts": starts,
    }


@checked("_C_cache_ops::gather_cache", _gathers)
def gather_cache(
    src_cache: Tensor,
    dst: Tensor,
    block_table: Tensor,
    cu_seq_lens: Tensor,
    batch_size: int,
    seq_starts: Tensor | None = None,
) -> dict[str, Expected]:
    block = src_cache.shape[1]
    # It starts at the page that the first token is in.
    first = None if seq_starts is None else seq_starts // block * block
    starts = cu_seq_lens[: batch_size + 1]
    pages, offsets = _locations(block_table, starts, first, block)
    return _copied(dst, bits(src_cache)[pages, offsets])


def _copied(dst: Tensor, rows: Tensor) -> dict[str, Expected]:
    exact, written = bits(dst).clone(), torch.zeros(dst.shape, dtype=torch.bool)
    exact[: len(rows)], written[: len(rows)] = rows, True
    return {"dst": Expected(exact, written=written)}


def _dequantised() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for kind in ("auto", "fp8", "fp8_e5m2"):
            for lengths in ([20, 5], [1], [33, 16, 48]):
                fp8 = fp8_of(kind)
                cache = making.normal(8, 16, 576, dtype=fp8 or dtype)
                tokens = sum(lengths)
                sequence = torch.arange(len(lengths))
                yield {
                    "src_cache": cache.view(torch.uint8) if fp8 else cache,
                    "dst": making.empty(tokens, 576, dtype=dtype),
                    **_pages(lengths, 16, 8),
                    "token_to_seq": sequence.repeat_interleave(
                        torch.tensor(lengths)
                    ).int(),
                    "num_tokens": tokens,
                    "kv_cache_dtype": kind,
                    "scale": making.positive(1),
                    "seq_starts": None,
                }


@checked("_C_cache_ops::gather_and_maybe_dequant_cache", _dequantised)
def gather_and_maybe_dequant_cache(
    src_cache: Tensor,
    dst: Tensor,
    block_table: Tensor,
    cu_seq_lens: Tensor,
    token_to_seq: Tensor,
    num_tokens: int,
    kv_cache_dtype: str,
    scale: Tensor,
    seq_starts: Tensor | None = None,
) -> dict[str, Expected]:
    pages, offsets = _locations(
        block_table, cu_seq_lens, seq_starts, src_cache.shape[1]
    )
    fp8 = fp8_of(kv_cache_dtype)
    if fp8 is None:
        return _copied(dst, bits(src_cache)[pages, offsets][:num_tokens])
    values = src_cache.view(fp8).double()[pages, offsets][:num_tokens]
    exact = torch.zeros(dst.shape, dtype=torch.float64)
    written = torch.zeros(dst.shape, dtype=torch.bool)
    exact[: len(values)] = values * scale.double().flatten()[0]
    written[: len(values)] = True
    return {"dst": Expected(exact, written=written)}


def _conversions() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        for shape in ((5, 64), (1, 129), (3, 16, 2, 80)):
            for kind in ("fp8", "auto"):
                yield {
                    "dst": making.empty(*shape, dtype=torch.uint8),
                    "src": making.normal(*shape, dtype=dtype, size=3),
                    "scale": 0.037,
                    "kv_cache_dtype": kind,
                }
                codes = making.normal(*shape, dtype=making.E4M3, size=30)
                yield {
                    "dst": making.empty(*shape, dtype=dtype),
                    "src": codes.view(torch.uint8),
                    "scale": 0.037,
                    "kv_cache_dtype": kind,
                }


@checked("_C_cache_ops::convert_fp8", _conversions)
def convert_fp8(
    dst: Tensor, src: Tensor, scale: float, kv_cache_dtype: str
) -> dict[str, Expected]:
    # "auto" is e4m3 here: of no other format is an op to convert FP8 to or from.
    fp8 = fp8_of(kv_cache_dtype) or making.E4M3
    factor = float(torch.tensor(scale, dtype=torch.float32))
    if dst.dtype == torch.uint8:
        exact = src.double() / factor
        return {"dst": Expected(exact, dtype=fp8, relative=2.0**-22)}
    return {"dst": Expected(src.view(fp8).double() * factor)}


def _swaps() -> Iterator[Arguments]:
    for dtype in making.FLOATS:
        blocks = making.normal(6, 16, 2, 64, dtype=dtype)
        yield {
            "src": blocks,
            "dst": torch.zeros_like(blocks),
            "block_size_in_bytes": 16 * 2 * 64 * dtype.itemsize,
            "block_mapping": torch.tensor([[0, 3], [5, 0], [2, 5]]),
        }


@checked("_C_cache_ops::swap_blocks", _swaps, vary=("src",), host=("block_mapping",))
def swap_blocks(
    src: Tensor, dst: Tensor, block_size_in_bytes: int, block_mapping: Tensor
) -> dict[str, Expected]:
    exact, written = bits(dst).clone(), torch.zeros(dst.shape, dtype=torch.bool)
    for source, target in block_mapping.tolist():
        exact[target], written[target] = bits(src)[source], True
    return {"dst": Expected(exact, written=written)}
