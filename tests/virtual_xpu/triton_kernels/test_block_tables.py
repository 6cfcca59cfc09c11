# SPDX-License-Identifier: Apache-2.0
"""Block tables and slots, against Triton's interpreter."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.virtual_xpu.triton_kernels.arguments import (
    PLACES,
    POISON,
    STARTS,
    ints,
    module,
    poisoned,
    random,
)


@pytest.mark.parametrize("ranks", [1, 2])
def test_block_tables_and_slots(both: Any, ranks: int) -> None:
    """Catches groups' tables mixed up, stale padding and a request without blocks."""
    tables = module("gpu.block_table").BlockTables(
        [16, 4, 8],
        PLACES,
        24,
        [8, 40, 16],
        torch.device("xpu"),
        cp_size=ranks,
        cp_rank=ranks - 1,
        cp_interleave=2,
        slot_mapping_enabled=[True, True, False],
        dcp_sharded=[True, False, True],
    )

    def write() -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        for place in range(PLACES):
            ids = [
                torch.randint(99, (n,), generator=generator).tolist()
                for n in (3, 12, 6)
            ]
            ids = [[] if place == 4 else group for group in ids]
            tables.append_block_ids(place, tuple(ids), overwrite=True)
        tables.apply_staged_writes()
        for table in tables.input_block_tables:
            table.fill_(POISON)
        tables.slot_mappings.fill_(POISON)
        position = torch.arange(14, dtype=torch.int64, device="xpu") * 3
        gathered = tables.gather_block_tables(ints([5, 4, 8, 3], torch.int64), 6)
        without = ints([5, -1, 8, 3], torch.int64)
        tables.compute_slot_mappings(without, STARTS, position, 16)
        return [b.gpu.clone() for b in tables.block_tables] + [
            *(table.clone() for table in gathered),
            tables.slot_mappings.clone(),
        ]

    both(write)


@pytest.mark.parametrize("ranks", [1, 2])
def test_slots_of_the_older_runner(both: Any, ranks: int) -> None:
    """Catches slots of another rank's tokens, and stale ones behind the batch."""
    block_table = module("block_table")
    if not hasattr(block_table, "_COMPUTE_SLOT_MAPPING_KERNEL"):
        pytest.skip("vLLM before 0.32")
    both(
        lambda *args: block_table._COMPUTE_SLOT_MAPPING_KERNEL(4, 16, 24, *args),
        STARTS,
        torch.arange(14, dtype=torch.int64, device="xpu") * 3,
        random(99, PLACES, 12),
        12,
        poisoned(24, dtype=torch.int64),
        16,
        ranks,
        ranks - 1,
        2,
    )
