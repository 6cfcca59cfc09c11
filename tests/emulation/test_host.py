# SPDX-License-Identifier: Apache-2.0
"""What takes the place of slow host code computes the same."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.worker import block_table

from vllm_xpu_fp8_plugin.emulation.host import (
    compute_slot_mapping,
    unquantized_gemm,
    use_slot_mapping,
)

POISON = 123456789


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=5),
    block_size=st.sampled_from([1, 4, 16]),
    padding=st.integers(0, 5),
    ranks=st.integers(1, 3),
    interleave=st.sampled_from([1, 2]),
    data=st.data(),
)
def test_slot_mapping_is_that_of_its_definition(
    lengths: list[tuple[int, int]],
    block_size: int,
    padding: int,
    ranks: int,
    interleave: int,
    data: st.DataObject,
) -> None:
    """Catches a token in another's slot, and slots left as they were."""
    block_size *= interleave
    rank = data.draw(st.integers(0, ranks - 1))
    starts = [0]
    positions: list[int] = []
    for count, done in lengths:
        starts.append(starts[-1] + count)
        positions += range(done, done + count)
    in_use = len(positions)
    table = torch.randperm(1000)[: max(1, len(lengths)) * 60].view(-1, 60).int()
    slots = torch.full((in_use + padding + 3,), POISON)
    compute_slot_mapping(
        num_tokens=in_use + padding,
        max_num_tokens=in_use + padding + 2,
        query_start_loc_ptr=torch.tensor(starts, dtype=torch.int32),
        positions_ptr=torch.tensor(positions + [7] * padding, dtype=torch.int64),
        block_table_ptr=table,
        block_table_stride=60,
        slot_mapping_ptr=slots,
        KV_CACHE_BLOCK_SIZE=block_size,
        TOTAL_CP_WORLD_SIZE=ranks,
        TOTAL_CP_RANK=rank,
        CP_KV_CACHE_INTERLEAVE_SIZE=interleave,
        PAD_ID=-1,
        BLOCK_SIZE=1024,
    )
    expected: list[int] = []
    for request, (start, end) in enumerate(pairwise(starts)):
        for position in positions[start:end]:
            # Tokens go round the ranks, `interleave` at a time.
            turn, offset = divmod(position, interleave)
            mine, owner = divmod(turn, ranks)
            index = mine * interleave + offset
            block, inside = divmod(index, block_size)
            slot = int(table[request, block]) * block_size + inside
            expected.append(slot if owner == rank else -1)
    assert slots[:in_use].tolist() == expected
    assert (slots[in_use + padding : -1] == -1).all()
    assert slots[-1] == POISON


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_unquantized_product_is_rounded_once(
    dtype: torch.dtype, with_bias: bool
) -> None:
    """Catches sums in the inputs' precision, and a bias added after rounding."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 700, generator=generator).to(dtype)
    weight = torch.randn(40, 700, generator=generator).to(dtype)
    bias = torch.randn(40, generator=generator).to(dtype) if with_bias else None
    result = unquantized_gemm(torch.nn.Identity(), x, weight, bias)
    exact = x.double() @ weight.double().T
    if bias is not None:
        exact += bias.double()
    assert result.dtype == dtype
    half_unit = torch.finfo(dtype).eps / 2
    assert (
        (result.double() - exact).abs() <= 1.01 * half_unit * exact.abs() + 1e-4
    ).all()


class _NotToBeLookedAt:
    """Stands in for humming-kernels' device, which loads the CUDA driver."""

    __slots__ = ()

    def __getattr__(self, name: str) -> None:
        raise ImportError("libcuda.so.1: cannot open shared object file")


def test_slot_mapping_takes_the_place_of_the_kernel_it_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a kernel left in the interpreter, and a look into others' modules."""
    monkeypatch.setattr(block_table, "lazy", _NotToBeLookedAt(), raising=False)
    owner = block_table.ComputeSlotMappingKernel
    monkeypatch.setattr(owner, "kernel", owner.kernel)
    for _ in range(2):
        use_slot_mapping()
        assert owner().kernel.func is compute_slot_mapping


def test_slot_mapping_leaves_another_kernel_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches arguments taken for others: vLLM 0.31's kernel has two more."""
    other = SimpleNamespace(arg_names=["num_tokens", "block_size"])
    monkeypatch.setattr(block_table.ComputeSlotMappingKernel, "kernel", other)
    use_slot_mapping()
    assert block_table.ComputeSlotMappingKernel.kernel is other
    monkeypatch.delattr(block_table, "ComputeSlotMappingKernel")
    use_slot_mapping()
