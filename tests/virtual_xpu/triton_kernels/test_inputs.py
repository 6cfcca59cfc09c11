# SPDX-License-Identifier: Apache-2.0
"""What goes into a step, against Triton's interpreter."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.virtual_xpu.triton_kernels.arguments import (
    COMPUTED,
    CU_LOGITS,
    IDX,
    LENGTH,
    PLACES,
    POISON,
    PREFILL,
    SEQ_LENS,
    STARTS,
    VOCABULARY,
    ints,
    module,
    poisoned,
    random,
)


@pytest.mark.parametrize("lookahead", [1, 3])
def test_prompt_tokens_are_copied(both: Any, lookahead: int) -> None:
    """Catches tokens behind a prompt's end, and those of requests that decode."""
    both(
        module("gpu.input_batch").prepare_prefill_inputs,
        poisoned(20),
        poisoned(lookahead, PLACES),
        IDX,
        STARTS,
        random(VOCABULARY, PLACES, LENGTH),
        PREFILL,
        COMPUTED,
    )


def test_positions_and_lengths(both: Any) -> None:
    """Catches stale lengths in rows of padding."""
    both(
        module("gpu.input_batch").prepare_pos_seq_lens,
        IDX,
        STARTS,
        COMPUTED,
        poisoned(20, dtype=torch.int64),
        poisoned(PLACES),
    )


@pytest.mark.parametrize("new", [0, 1])
@pytest.mark.parametrize("shorter", [0, 1])
def test_sampled_and_draft_tokens(both: Any, new: int, shorter: int) -> None:
    """Catches a sampled token written into a prompt, and drafts at a wrong place."""
    both(
        module("gpu.input_batch").combine_sampled_and_draft_tokens,
        poisoned(20),
        IDX,
        random(VOCABULARY, PLACES, 1, dtype=torch.int64),
        STARTS,
        # By one, the last request's first logit is of its prompt's last token.
        SEQ_LENS - shorter,
        PREFILL,
        random(VOCABULARY, PLACES, 3, dtype=torch.int64),
        CU_LOGITS,
        6,
        new,
    )


def test_what_was_sampled_within_a_prompt_is_dropped(both: Any) -> None:
    """Catches a token that is kept before the prompt's end."""
    both(
        module("gpu.input_batch").get_num_sampled_and_rejected,
        ints([1, 1, 1, 2]),
        SEQ_LENS,
        CU_LOGITS,
        IDX,
        PREFILL,
    )


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("starts", [None, STARTS])
def test_a_step_is_written_to_its_requests(
    both: Any, counted: bool, starts: Tensor | None
) -> None:
    """Catches a row of index -1 that is not left out, and tokens of other requests."""
    both(
        module("gpu.input_batch").post_update,
        ints([5, -1, 8, 3], torch.int64),
        COMPUTED,
        poisoned(PLACES, 1, dtype=torch.int64),
        random(3, PLACES, VOCABULARY) if counted else None,
        random(VOCABULARY, 4, 3, dtype=torch.int64),
        ints([0, 1, 1, 2]),
        ints([0, 0, 0, 1]),
        starts,
        poisoned(PLACES, LENGTH),
        random(LENGTH - 3, PLACES),
    )


def test_small_updates(both: Any) -> None:
    """Catches counts and places of another row."""
    inputs = module("gpu.input_batch")
    both(inputs.post_update_num_computed_tokens, IDX, COMPUTED, STARTS)
    both(inputs.expand_idx_mapping, IDX, 6, CU_LOGITS, 3)


@pytest.mark.parametrize("shape", [(PLACES,), (PLACES, LENGTH)])
def test_pieces_of_rows_are_written(both: Any, shape: tuple[int, ...]) -> None:
    """Catches a piece at a wrong place, the empty one among them."""
    buffers = module("gpu.buffer_utils")
    staged = buffers.StagedWriteTensor(shape, torch.int32, torch.device("xpu"))

    def write() -> Tensor:
        staged.gpu.fill_(POISON)
        pieces = ((3, [1]), (0, []), (7, [2])) if len(shape) == 1 else ((3, [1, 2]),)
        for row, contents in pieces:
            staged.stage_write(row, 0, contents)
        if len(shape) == 2:
            staged.stage_write(8, 60, [4, 5, 6, 7])
        staged.apply_write()
        return staged.gpu.clone()

    both(write)
