# SPDX-License-Identifier: Apache-2.0
"""What is kept of a call: values, strides, neighbours in memory, pages in use."""

from pathlib import Path

import torch

from vllm_xpu_fp8_plugin.check import layout, making, pages, save
from vllm_xpu_fp8_plugin.check.call import Call


def test_saved_call_is_the_call(tmp_path: Path) -> None:
    """Catches strides, offsets, types and values that a file does not keep."""
    memory = torch.arange(64).half()
    arguments = {
        "x": memory.as_strided((3, 4), (10, 2), 5),
        "scale": torch.tensor(0.5).expand(2, 3),
        "q": making.normal(4, 4, dtype=making.E4M3).t(),
        "weights": [torch.ones(2), torch.zeros(3)],
        "dtype": torch.bfloat16,
        "group_shape": (1, -1),
        "nothing": None,
        "flag": True,
    }
    call = Call("_C::op", arguments, frozenset({"x"}), ("layer",), 3)
    save.write(call, tmp_path / "call.safetensors")
    read = save.read(tmp_path / "call.safetensors")
    assert (read.op, read.host, read.layers, read.count) == (
        call.op,
        call.host,
        call.layers,
        call.count,
    )
    for name, tensor in call.tensors().items():
        other = read.tensors()[name]
        assert other.stride() == tensor.stride() and other.dtype == tensor.dtype
        assert torch.equal(other.float(), tensor.float())
    assert read.arguments["x"].storage_offset() == 5
    assert read.arguments["dtype"] == torch.bfloat16
    assert list(read.arguments["group_shape"]) == [1, -1]


def test_values_between_keys_stay_between_them(tmp_path: Path) -> None:
    """Catches a cache of [..., 2 * head_size] that is torn apart."""
    cache = torch.arange(2 * 4 * 2 * 16).float().view(2, 4, 2, 16)
    keys, values = cache.chunk(2, -1)
    call = Call("_C::op", {"key_cache": keys, "value_cache": values})
    save.write(call, tmp_path / "call.safetensors")
    read = save.read(tmp_path / "call.safetensors").tensors()
    assert layout.interleaved(read) == {"value_cache": ("key_cache", 8)}
    assert torch.equal(read["key_cache"], keys)
    assert torch.equal(read["value_cache"], values)


def test_a_cache_is_kept_with_the_pages_in_use() -> None:
    """Catches pages that are renumbered wrongly, or a whole cache that is copied."""
    cache = torch.randn(1000, 16, 2, 8)
    table = torch.tensor([[900, 17, 5], [3, 999, 0]], dtype=torch.int32)
    used = torch.tensor([33, 20], dtype=torch.int32)
    call = Call(
        "_vllm_fa2_C::varlen_fwd",
        {"k": cache, "v": cache * 2, "block_table": table, "seqused_k": used},
    )
    small = pages.compact(call).arguments
    assert len(small["k"]) <= 7
    for sequence, count in enumerate((3, 2)):
        for place in range(count):
            page = small["block_table"][sequence, place]
            assert torch.equal(small["k"][page], cache[table[sequence, place]])
            assert torch.equal(small["v"][page], 2 * cache[table[sequence, place]])


def test_slots_are_renumbered_with_their_pages() -> None:
    """Catches a token that would be written to another page."""
    cache = torch.zeros(500, 16, 2, 8)
    slots = torch.tensor([499 * 16 + 3, -1, 7 * 16, 7 * 16 + 15])
    call = Call("op", {"key_cache": cache, "value_cache": cache, "slot_mapping": slots})
    small = pages.compact(call).arguments
    moved = small["slot_mapping"]
    assert len(small["key_cache"]) <= 4 and int(moved[1]) == -1
    assert (moved[[0, 2, 3]] % 16).tolist() == [3, 0, 15]
    assert moved[2] // 16 == moved[3] // 16 != moved[0] // 16
