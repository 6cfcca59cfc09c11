# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.cache and .cache_dtype, through torch's ops."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference.memory import is_poison, poisoned
from tests.reference.ops import Ops, in_pytorch_only, refused, unchecked
from tests.reference.oracle_cache import FLOATS, FP8, KINDS, is_stored, slot_mappings

ops = Ops("_C_cache_ops")
pytestmark = pytest.mark.usefixtures("how")

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


def caches(
    layout: str, blocks: int, page: int, heads: int, size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the memory of a cache, and its keys and values in one of its layouts."""
    if layout == "apart":
        memory = poisoned((2, blocks, page, heads, size), dtype)
        return memory, memory[0], memory[1]
    if layout == "interleaved":
        memory = poisoned((blocks, 2, page, heads, size), dtype)
        return memory, memory[:, 0], memory[:, 1]
    # vLLM 0.32: (B, H, N, 2 * D), read as ((B, N, H, D), (B, N, H, D)).
    shape = (blocks, heads, page, 2 * size)
    if layout == "layers":
        memory = poisoned((blocks, 3, *shape[1:]), dtype)
        keys, values = memory[:, 1].transpose(1, 2).split(size, dim=-1)
        return memory, keys, values
    memory = poisoned(shape, dtype)
    keys, values = memory.transpose(1, 2).split(size, dim=-1)
    return memory, keys, values


@PROPERTY
@given(
    st.data(),
    st.sampled_from(["apart", "interleaved", "joint", "layers"]),
    FLOATS,
    KINDS,
    st.tuples(st.integers(1, 3), st.sampled_from([1, 4, 5]), st.integers(1, 3)),
    st.integers(0, 2),
)
def test_keys_and_values_go_to_their_slots(
    data: st.DataObject,
    layout: str,
    dtype: torch.dtype,
    kind: str,
    sizes: tuple[int, int, int],
    padding: int,
) -> None:
    """Catches a wrong slot, stride, scale or rounding, and any other write."""
    blocks, page, heads = sizes
    slots = data.draw(slot_mappings(blocks * page))
    torch.manual_seed(len(slots))
    # As a layer has them: views of the joint projection; and longer than the slots.
    qkv = 100 * torch.randn(len(slots) + padding, 3, heads, 8)
    _, key, value = qkv.to(dtype).unbind(1)
    memory, keys, values = caches(
        layout, blocks, page, heads, 8, torch.uint8 if FP8[kind] else dtype
    )
    scales = torch.tensor(0.5), torch.tensor([2.7])
    ops.reshape_and_cache_flash(key, value, keys, values, slots, kind, *scales)
    for token, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        where = (slot // page, slot % page)
        for cache, new, scale in zip((keys, values), (key, value), scales, strict=True):
            assert is_stored(cache[where], new[token], kind, scale.double().item())
            cache[where] = poisoned((heads, 8), cache.dtype)
    assert is_poison(memory), "written outside of the slots"


@PROPERTY
@given(st.data(), FLOATS, st.integers(1, 3), st.sampled_from([1, 4]))
def test_keys_split_in_x_go_to_their_slots(
    data: st.DataObject, dtype: torch.dtype, blocks: int, page: int
) -> None:
    """Catches a wrong order of dimensions, and any other write."""
    slots = data.draw(slot_mappings(blocks * page))
    key = torch.randn(len(slots) + 1, 2, 16).to(dtype)
    value = torch.randn(len(slots) + 1, 2, 16).to(dtype)
    keys = poisoned((blocks, 2, 4, page, 4), dtype)
    values = poisoned((blocks, *value.shape[1:], page), dtype)
    one = torch.ones(1)
    ops.reshape_and_cache(key, value, keys, values, slots, "auto", one, one)
    for token, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        block, offset = divmod(slot, page)
        for head in range(2):
            for i in range(16):
                stored = keys[block, head, i // 4, offset, i % 4]
                assert stored == key[token, head, i]
            for i in range(value.shape[2]):
                assert values[block, head, i, offset] == value[token, head, i]
        keys[block, :, :, offset] = poisoned((2, 4, 4), dtype)
        values[block, :, :, offset] = poisoned(tuple(value.shape[1:]), dtype)
    assert is_poison(keys) and is_poison(values), "written outside of the slots"


_KEY = torch.zeros(2, 2, 8, dtype=torch.float16)
_CACHE = torch.zeros(3, 4, 2, 8, dtype=torch.float16)
_BYTES = torch.zeros(3, 4, 2, 8, dtype=torch.uint8)
_X = torch.zeros(3, 2, 4, 4, 2, dtype=torch.float16)
_XV = torch.zeros(3, 2, 8, 4, dtype=torch.float16)
_SLOTS, _ONE = torch.tensor([0, 5]), torch.ones(1)
_HND = _CACHE.transpose(1, 2).contiguous().transpose(1, 2)


def _write(op: str, cache: Tensor, values: Tensor, kind: str, **change: Any) -> None:
    tensors = {"key": _KEY, "value": _KEY, "slot_mapping": _SLOTS, **change}
    getattr(ops, op)(
        tensors["key"],
        tensors["value"],
        cache,
        values,
        tensors["slot_mapping"],
        kind,
        _ONE,
        _ONE,
    )


@pytest.mark.parametrize(
    ("cache", "kind", "change", "message"),
    [
        (_CACHE, "bfloat16", {}, "unsupported data type of kv cache"),
        (_CACHE, "auto", {"key": _KEY.int()}, "unsupported input type"),
        unchecked(_CACHE, "fp8", {}, "must be of uint8"),
        unchecked(_BYTES, "auto", {}, "a cache of torch.uint8"),
        (_CACHE, "auto", {"slot_mapping": _SLOTS.int()}, "int64"),
        unchecked(_CACHE, "auto", {"value": _KEY.float()}, "one type"),
        (_CACHE, "auto", {"key": _KEY.transpose(1, 2)}, "contiguous"),
        (_CACHE, "auto", {"key": _KEY[..., :4].contiguous()}, "do not fit"),
        # Keys and values that are apart need heads that follow each other.
        (_HND, "auto", {}, "adjacent"),
    ],
)
def test_a_write_that_the_kernel_refuses_is_refused(
    cache: Tensor, kind: str, change: dict[str, Tensor], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        _write("reshape_and_cache_flash", cache, cache.clone(), kind, **change)


@in_pytorch_only
def test_what_the_kernel_stores_wrong_is_not_hidden() -> None:
    """Catches a right answer where a real XPU gives a wrong one."""
    with pytest.raises(NotImplementedError, match="reshape_and_cache_flash"):
        _write("reshape_and_cache", _X.byte(), _XV.byte(), "fp8")


@in_pytorch_only
def test_a_cache_split_in_x_must_fit() -> None:
    """Catches heads of one size written into a cache of another."""
    with pytest.raises(RuntimeError, match="do not fit"):
        _write("reshape_and_cache", _X[:, :1].clone(), _XV, "auto")
    # The kernel counts on one head size.
    with pytest.raises(RuntimeError, match="do not fit"):
        _write(
            "reshape_and_cache",
            _X,
            _XV[:, :, :4].clone(),
            "auto",
            value=_KEY[..., :4].clone(),
        )
    with pytest.raises(RuntimeError, match="both caches must be contiguous"):
        _write("reshape_and_cache", _X, _XV.transpose(2, 3), "auto")
