# SPDX-License-Identifier: Apache-2.0
"""Arguments for each op that is compiled code and has a PyTorch version.

Values include zeros, infinities' neighbours and the tails of the functions; nothing is
beyond what the kernels take.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
HALF = FLOATS[1:]
E4M3 = torch.float8_e4m3fn
_ROWS, _HIDDEN = 48, 256
Arguments = tuple[Any, ...]


def _values(*shape: int, dtype: torch.dtype, size: float = 1.0) -> Tensor:
    values = size * torch.randn(shape)
    values.view(-1)[0] = 0.0
    return values.to(dtype)


def _out(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def _rows(dtype: torch.dtype) -> Tensor:
    """Return rows of several magnitudes, one of zeros."""
    size = torch.logspace(-3, 2, _ROWS)[:, None]
    rows = size * torch.randn(_ROWS, _HIDDEN)
    rows[5] = 0.0
    return rows.to(dtype)


def _gated(dtype: torch.dtype, *extra: float) -> Arguments:
    return (
        _out(_ROWS, _HIDDEN, dtype=dtype),
        _values(_ROWS, 2 * _HIDDEN, dtype=dtype, size=4),
        *extra,
    )


def _plain(dtype: torch.dtype) -> Arguments:
    x = _values(_ROWS, _HIDDEN, dtype=dtype, size=4)
    return torch.zeros_like(x), x


def _norm(dtype: torch.dtype) -> Arguments:
    x = _rows(dtype)
    return torch.zeros_like(x), x, _values(_HIDDEN, dtype=dtype), 1e-5


def _fused_norm(dtype: torch.dtype) -> Arguments:
    weight = _values(_HIDDEN, dtype=dtype)
    return _rows(dtype), _values(_ROWS, _HIDDEN, dtype=dtype), weight, 1e-5


def _layer_norm(dtype: torch.dtype) -> Arguments:
    weight, bias = (_values(_HIDDEN, dtype=dtype) for _ in range(2))
    return torch.zeros_like(x := _rows(dtype)), x, weight, bias, 1e-5


def _fused_layer_norm(dtype: torch.dtype) -> Arguments:
    residual = _values(_ROWS, _HIDDEN, dtype=dtype)
    weight, bias = (_values(_HIDDEN, dtype=dtype) for _ in range(2))
    return _rows(dtype), residual, weight, bias, 1e-5


def _static_norm(dtype: torch.dtype, fused: bool = False) -> Arguments:
    residual = (_values(_ROWS, _HIDDEN, dtype=dtype),) if fused else ()
    q, weight = _out(_ROWS, _HIDDEN, dtype=E4M3), _values(_HIDDEN, dtype=dtype)
    return q, _rows(dtype), *residual, weight, torch.tensor([0.037]), 1e-5


def _token_norm(dtype: torch.dtype) -> Arguments:
    q, scale = _out(_ROWS, _HIDDEN, dtype=E4M3), torch.zeros(_ROWS, 1)
    weight, residual = (_values(n, dtype=dtype) for n in (_HIDDEN, _ROWS * _HIDDEN))
    return q, _rows(dtype), weight, scale, 1e-5, None, residual.view(_ROWS, _HIDDEN)


def _block_norm(dtype: torch.dtype) -> Arguments:
    q, scale = _out(_ROWS, _HIDDEN, dtype=E4M3), torch.zeros(_ROWS, 2)
    weight = _values(_HIDDEN, dtype=dtype)
    return q, _rows(dtype), weight, scale, 1e-5, None, None, 128, False


def _silu_quant(dtype: torch.dtype) -> Arguments:
    x = _values(_ROWS, 2 * _HIDDEN, dtype=dtype, size=4)
    return _out(_ROWS, _HIDDEN, dtype=E4M3), x, torch.tensor([0.037])


def _silu_block_quant(dtype: torch.dtype) -> Arguments:
    x = _values(_ROWS, 2 * _HIDDEN, dtype=dtype, size=4)
    return _out(_ROWS, _HIDDEN, dtype=E4M3), x, torch.zeros(_ROWS, 2), 128


def _quant(dtype: torch.dtype, *scale: float) -> Arguments:
    q = _out(_ROWS, _HIDDEN, dtype=E4M3)
    return q, _rows(dtype), torch.tensor(scale or (0.0,))


def _token_quant(dtype: torch.dtype) -> Arguments:
    q, scale = _out(_ROWS, _HIDDEN, dtype=E4M3), torch.zeros(_ROWS, 1)
    return q, _rows(dtype), scale, None


def _group_quant(dtype: torch.dtype) -> Arguments:
    q, scale = _out(_ROWS, _HIDDEN, dtype=E4M3), torch.zeros(_ROWS, 2)
    return _rows(dtype), q, scale, 128, 1e-10, -448.0, 448.0, False, False, False


def _angles(rot_dim: int, dtype: torch.dtype) -> Tensor:
    angle = torch.arange(64)[:, None] * 1e4 ** (-torch.arange(rot_dim // 2) / rot_dim)
    return torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype)


def _rotary(dtype: torch.dtype) -> Arguments:
    query, key = (_values(_ROWS, n * 64, dtype=dtype) for n in (4, 2))
    positions = torch.randint(64, (_ROWS,))
    return positions, query, key, 64, _angles(64, dtype), True


def _mrope(dtype: torch.dtype) -> Arguments:
    query, key = (_values(_ROWS, n * 64, dtype=dtype) for n in (4, 2))
    positions, sections = torch.randint(64, (3, _ROWS)), [16, 8, 8]
    return positions, query, key, 64, _angles(64, dtype), True, sections


def _rotate(dtype: torch.dtype) -> Arguments:
    x, table = _values(_ROWS, 4, 64, dtype=dtype), _angles(64, dtype)[:_ROWS]
    return torch.zeros_like(x), x, table[:, :32], table[:, 32:], True


def _qk_norm(dtype: torch.dtype) -> Arguments:
    weights = (_values(64, dtype=dtype) for _ in range(2))
    qkv, positions = _values(_ROWS, 8 * 64, dtype=dtype), torch.randint(64, (_ROWS,))
    return qkv, 4, 2, 2, 64, 1e-5, *weights, _angles(64, dtype), True, positions


def _merge(dtype: torch.dtype) -> Arguments:
    parts = [_values(_ROWS, 4, 64, dtype=dtype) for _ in range(2)]
    sums = [3 * torch.randn(4, _ROWS) for _ in range(2)]
    out, lse = torch.zeros_like(parts[0]), torch.zeros(4, _ROWS)
    return out, lse, parts[0], sums[0], parts[1], sums[1]


_ONE, _SCALE = torch.ones(1), torch.tensor([0.037])
_SLOTS = torch.tensor([3, -1, 17, 8])


def _cache(dtype: torch.dtype, kind: str = "fp8") -> Arguments:
    key, value = (_values(4, 2, 64, dtype=dtype, size=9) for _ in range(2))
    keys, values = (_out(5, 16, 2, 64, dtype=torch.uint8) for _ in range(2))
    return key, value, keys, values, _SLOTS, kind, _SCALE, _SCALE


def _split_cache(dtype: torch.dtype) -> Arguments:
    key, value = (_values(4, 2, 64, dtype=dtype) for _ in range(2))
    keys, values = _out(5, 2, 8, 16, 8, dtype=dtype), _out(5, 2, 64, 16, dtype=dtype)
    return key, value, keys, values, _SLOTS, "auto", _ONE, _ONE


def _mla_cache(dtype: torch.dtype) -> Arguments:
    latent, rotary = _values(4, 96, dtype=dtype, size=9), _values(4, 32, dtype=dtype)
    return latent, rotary, _out(5, 16, 128, dtype=torch.uint8), _SLOTS, "fp8", _SCALE


def _pages() -> tuple[Tensor, Tensor, Tensor]:
    """Return a block table, lengths from the first on, and each token's sequence."""
    table = torch.tensor([[2, 0], [1, 4]], dtype=torch.int32)
    lengths = torch.tensor([0, 20, 25], dtype=torch.int32)
    return table, lengths, (torch.arange(25) >= 20).int()


def _gather(dtype: torch.dtype) -> Arguments:
    table, lengths, _ = _pages()
    cache = _values(5, 16, 64, dtype=dtype)
    return cache, _out(25, 64, dtype=dtype), table, lengths, 2, None


def _gather_fp8(dtype: torch.dtype) -> Arguments:
    table, lengths, sequence = _pages()
    cache = _values(5, 16, 64, dtype=E4M3).view(torch.uint8)
    out = _out(25, 64, dtype=dtype)
    return cache, out, table, lengths, sequence, 25, "fp8", _SCALE, None


def _convert(dtype: torch.dtype) -> Arguments:
    x = _values(5, 64, dtype=dtype, size=9)
    return _out(5, 64, dtype=torch.uint8), x, 0.037, "fp8"


def _swap(dtype: torch.dtype) -> Arguments:
    blocks, pairs = _values(5, 64, dtype=dtype), torch.tensor([[0, 3], [4, 1]])
    return blocks, torch.zeros_like(blocks), 64 * dtype.itemsize, pairs


# namespace::name -> the types that it is called with, and its arguments in one.
CASES: dict[str, tuple[tuple[torch.dtype, ...], Callable[..., Arguments]]] = {
    "_C::silu_and_mul": (FLOATS, _gated),
    "_C::mul_and_silu": (FLOATS, _gated),
    "_C::gelu_and_mul": (FLOATS, _gated),
    "_C::gelu_tanh_and_mul": (FLOATS, _gated),
    "_C::fatrelu_and_mul": (FLOATS, lambda dtype: _gated(dtype, 0.5)),
    "_C::swigluoai_and_mul": (FLOATS, _gated),
    "_C::swiglustep_and_mul": (FLOATS, _gated),
    "_C::situ_and_mul": (FLOATS, lambda dtype: _gated(dtype, 2.0, 0.5)),
    "_C::gelu_new": (FLOATS, _plain),
    "_C::gelu_fast": (FLOATS, _plain),
    "_C::gelu_quick": (FLOATS, _plain),
    "_C::relu2_no_mul": (FLOATS, _plain),
    "_C::rms_norm": (FLOATS, _norm),
    "_C::gemma_rms_norm": (FLOATS, _norm),
    "_C::fused_add_rms_norm": (FLOATS, _fused_norm),
    "_C::fused_add_gemma_rms_norm": (FLOATS, _fused_norm),
    "_C::layer_norm": (FLOATS, _layer_norm),
    "_C::nemotron_layer_norm": (FLOATS, _layer_norm),
    "_C::fused_add_layer_norm": (FLOATS, _fused_layer_norm),
    "_C::fused_add_nemotron_layer_norm": (FLOATS, _fused_layer_norm),
    "_C::rms_norm_static_fp8_quant": (FLOATS, _static_norm),
    "_C::fused_add_rms_norm_static_fp8_quant": (
        FLOATS,
        lambda dtype: _static_norm(dtype, fused=True),
    ),
    "_C::rms_norm_dynamic_per_token_quant": (FLOATS, _token_norm),
    "_C::rms_norm_per_block_quant": (FLOATS, _block_norm),
    "_C::silu_and_mul_quant": (HALF, _silu_quant),
    "_C::silu_and_mul_per_block_quant": (HALF, _silu_block_quant),
    "_C::static_scaled_fp8_quant": (FLOATS, lambda dtype: _quant(dtype, 0.037)),
    "_C::dynamic_scaled_fp8_quant": (FLOATS, _quant),
    "_C::dynamic_per_token_scaled_fp8_quant": (FLOATS, _token_quant),
    "_C::per_token_group_fp8_quant": (FLOATS, _group_quant),
    "_C::rotary_embedding": (FLOATS, _rotary),
    "_C::fused_qk_norm_rope": (HALF, _qk_norm),
    "_C::merge_attn_states": (FLOATS, _merge),
    "_C_cache_ops::reshape_and_cache_flash": (FLOATS, _cache),
    "_C_cache_ops::reshape_and_cache": (FLOATS, _split_cache),
    "_C_cache_ops::concat_and_cache_mla": (FLOATS, _mla_cache),
    "_C_cache_ops::gather_cache": (FLOATS, _gather),
    "_C_cache_ops::gather_and_maybe_dequant_cache": (FLOATS, _gather_fp8),
    "_C_cache_ops::convert_fp8": (FLOATS, _convert),
    "_C_cache_ops::swap_blocks": (FLOATS, _swap),
    "_xpu_C::multimodal_rotary_embedding": (FLOATS, _mrope),
    "_xpu_C::apply_rotary_emb": (FLOATS, _rotate),
}
