# SPDX-License-Identifier: Apache-2.0
"""Keys of the sparse attention indexer in a cache, and scales in another order.

A page holds the keys of its tokens, e4m3, and behind them their scales, float32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.expected import Expected
from vllm_xpu_fp8_plugin.check.registry import Arguments, checked

_GROUP, _PAGE, _PAGES = 128, 16, 8


def _writes() -> Iterator[Arguments]:
    for dtype in (torch.float32, torch.bfloat16):
        for tokens, width in ((1, 128), (7, 128), (17, 256)):
            slots = making.distinct(tokens, _PAGE * _PAGES)
            if tokens > 2:
                slots[1] = -1
            stride = width + width // _GROUP * 4
            yield {
                "k": making.normal(tokens, width, dtype=dtype),
                "kv_cache": making.integers(_PAGES, _PAGE, stride, below=256).byte(),
                "slot_mapping": slots,
                "quant_block_size": _GROUP,
                "scale_fmt": "ue8m0",
            }


def _places(page: int, at: int, width: int, cache: Tensor) -> tuple[int, int]:
    """Return where a token's key and its scales begin, in bytes."""
    start = page * cache.shape[1] * cache.shape[2]
    scales = start + cache.shape[1] * width + at * width // _GROUP * 4
    return start + at * width, scales


@checked("_C_cache_ops::indexer_k_quant_and_cache", _writes, inplace=("kv_cache",))
def indexer_k_quant_and_cache(
    k: Tensor,
    kv_cache: Tensor,
    slot_mapping: Tensor,
    quant_block_size: int,
    scale_fmt: str,
) -> dict[str, Expected]:
    if scale_fmt != "ue8m0" or quant_block_size != _GROUP:
        raise ValueError("scales that are no powers of two may be off by one")
    cache = kv_cache.flatten().clone()
    written = torch.zeros(len(cache), dtype=torch.bool)
    width = k.shape[1]
    for key, slot in zip(k.double(), slot_mapping.tolist(), strict=True):
        if slot < 0:
            continue
        groups = key.view(-1, _GROUP)
        amax = groups.abs().amax(-1, keepdim=True).clamp(min=1e-4)
        scale = torch.exp2((amax / 448).log2().ceil())
        # A power of two leaves a value as exact as it is.
        codes = (groups / scale).float().to(making.E4M3).view(torch.uint8).flatten()
        page, offset = divmod(slot, kv_cache.shape[1])
        at, behind = _places(page, offset, width, kv_cache)
        scales = scale.float().flatten().view(torch.uint8)
        for start, values in ((at, codes), (behind, scales)):
            cache[start : start + len(values)] = values
            written[start : start + len(values)] = True
    shape = kv_cache.shape
    return {"kv_cache": Expected(cache.view(shape), written=written.view(shape))}


def _reads() -> Iterator[Arguments]:
    for width in (128, 256):
        for lengths in ((1,), (20, 3), (16, 33)):
            tokens, scales = sum(lengths), width // _GROUP * 4
            yield {
                "kv_cache": making.integers(
                    _PAGES, _PAGE, width + scales, below=256
                ).byte(),
                "dst_k": making.empty(tokens, width, dtype=torch.uint8),
                "dst_scale": making.empty(tokens, scales, dtype=torch.uint8),
                "block_table": making.distinct(len(lengths) * 3, _PAGES)
                .int()
                .view(-1, 3),
                "cu_seq_lens": torch.tensor([0, *lengths]).cumsum(0).int(),
            }


@checked("_C_cache_ops::cp_gather_indexer_k_quant_cache", _reads)
def cp_gather_indexer_k_quant_cache(
    kv_cache: Tensor,
    dst_k: Tensor,
    dst_scale: Tensor,
    block_table: Tensor,
    cu_seq_lens: Tensor,
) -> dict[str, Expected]:
    flat, page = kv_cache.flatten(), kv_cache.shape[1]
    keys, scales = torch.zeros_like(dst_k), torch.zeros_like(dst_scale)
    starts = cu_seq_lens.tolist()
    for i, table in enumerate(block_table.tolist()):
        for token in range(starts[i], starts[i + 1]):
            block, at = divmod(token - starts[i], page)
            begin, behind = _places(table[block], at, dst_k.shape[1], kv_cache)
            keys[token] = flat[begin : begin + dst_k.shape[1]]
            scales[token] = flat[behind : behind + dst_scale.shape[1]]
    return {"dst_k": Expected(keys), "dst_scale": Expected(scales)}


def _orders() -> Iterator[Arguments]:
    for counts in ((0, 1, 2, 3, 4, 5, 7, 8), (16, 0, 33), (1,)):
        for groups in (4, 40):
            codes = making.integers(sum(counts), groups, below=255).byte()
            yield {
                "A_scales": codes.view(torch.float8_e8m0fnu),
                "rows_per_expert": torch.tensor(counts).int(),
                "total_padded_rows": sum(counts) + 3 * len(counts),
            }


@checked("_moe_C::reorder_mxfp_scales", _orders)
def reorder_mxfp_scales(
    A_scales: Tensor, rows_per_expert: Tensor, total_padded_rows: int
) -> dict[str, Expected]:
    codes, groups = A_scales.view(torch.uint8), A_scales.shape[1]
    result = torch.zeros(total_padded_rows * groups, dtype=torch.uint8)
    row = start = 0
    for count in rows_per_expert.tolist():
        # Group by group, each with room for a multiple of four rows.
        padded = -(-count // 4) * 4
        block = torch.zeros(groups, padded, dtype=torch.uint8)
        block[:, :count] = codes[row : row + count].t()
        result[start : start + block.numel()] = block.flatten()
        row, start = row + count, start + block.numel()
    return {"return": Expected(result.view(total_padded_rows, groups))}
