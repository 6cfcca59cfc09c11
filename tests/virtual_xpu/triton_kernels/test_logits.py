# SPDX-License-Identifier: Apache-2.0
"""What is done with logits, against Triton's interpreter."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.virtual_xpu.triton_kernels.arguments import (
    CU_LOGITS,
    FLOATS,
    IDX,
    LENGTH,
    PLACES,
    PREFILL,
    VOCABULARY,
    ints,
    module,
    poisoned,
    random,
)


def logits(rows: int = 4) -> Tensor:
    values = torch.randn(rows, VOCABULARY) * 4
    values[0, 3] = float("-inf")
    return values.to("xpu")


@pytest.mark.parametrize("divide", [False, True])
def test_the_same_seed_samples_the_same_tokens(both: Any, divide: bool) -> None:
    """Catches noise that differs in a bit from vLLM's, seeds above 32 bits included."""
    seeds = random(2**62, PLACES, dtype=torch.int64)
    seeds[5] = -3
    both(
        module("gpu.sample.gumbel").gumbel_sample,
        logits(),
        ints([5, -1, 8, 3], torch.int64),
        FLOATS,
        seeds,
        ints([4, 5, 2**33 + 1, 7], torch.int64),
        divide,
        False,
    )


def test_noise_is_the_same_for_every_token(both: Any) -> None:
    """Catches noise that differs where it is small, which hardly ever decides."""
    gumbel, tokens = module("gpu.sample.gumbel"), 300

    def sample(best: Tensor, value: Tensor, *args: Tensor) -> None:
        # Blocks of one token: each has its noise told.
        gumbel._gumbel_sample_kernel[(1, tokens)](
            *(best, tokens, value, tokens),
            *(None, 0, 0, None, None, 0),
            *(args[0], tokens, *args[1:], tokens),
            BLOCK_SIZE=1,
            IS_DRAFTING=False,
            APPLY_TEMPERATURE=False,
            USE_FP64=False,
            PER_TOKEN_COL=False,
        )

    both(
        sample,
        poisoned(1, tokens, dtype=torch.int64),
        poisoned(1, tokens, dtype=torch.float32),
        torch.zeros(1, tokens, device="xpu"),
        ints([5], torch.int64),
        random(2**62, PLACES, dtype=torch.int64),
        ints([4], torch.int64),
        FLOATS,
    )


def test_temperature_and_min_p(both: Any) -> None:
    """Catches a row of temperature 0 that is divided, and another row's threshold."""
    both(module("gpu.sample.gumbel").apply_temperature, logits(), IDX, FLOATS)
    both(module("gpu.sample.min_p").apply_min_p, logits(), IDX, FLOATS / 2)


def test_penalties_count_what_drafts_add(both: Any) -> None:
    """Catches prompt tokens taken for generated ones, and drafts left out."""
    penalties = module("gpu.sample.penalties")
    masks, counts = random(1, PLACES, 79), random(1, PLACES, VOCABULARY)
    prompt_len = ints([12, 1, 1, 30, 1, 20, 1, 1, 15])
    tokens = random(VOCABULARY, PLACES, LENGTH)
    args = (IDX, tokens, prompt_len, PREFILL, masks, counts, 30)
    both(penalties.bincount, *args)
    penalties.bincount(*args)
    assert masks.any() and counts.any()
    both(
        penalties.apply_penalties,
        logits(6),
        ints([5, 0, 8, 3, 3, 3], torch.int64),
        tokens[0, :6].contiguous(),
        ints([0, 0, 0, 0, 1, 2]),
        FLOATS + 0.3,
        FLOATS / 3,
        FLOATS / 4,
        masks,
        counts,
    )


def test_log_probabilities_and_ranks(both: Any) -> None:
    """Catches a rank that does not count equals; sums may differ in their last bits."""
    logprob = module("gpu.sample.logprob")
    rows = logits().round()
    both(
        logprob.compute_token_logprobs,
        rows,
        random(VOCABULARY, 4, 6, dtype=torch.int64),
        atol=1e-5,
    )
    ranks = both(
        lambda out, *args: logprob._ranks_kernel[(4,)](
            out, *args, VOCABULARY, BLOCK_SIZE=8192
        ),
        poisoned(4, dtype=torch.int64),
        rows,
        VOCABULARY,
        random(VOCABULARY, 4, dtype=torch.int64),
    )
    assert ranks is None


def test_a_grammar_masks_tokens(both: Any) -> None:
    """Catches bits read in the wrong order, and a mask of logits that are not there."""
    structured = module("gpu.structured_outputs")

    def apply(rows: Tensor, *args: Any) -> None:
        structured._apply_grammar_bitmask_kernel[(3, 1)](
            rows, VOCABULARY, *args, 79, VOCABULARY, MASK_STRIDE=3, BLOCK_SIZE=8192
        )

    masks = torch.randint(-(2**31), 2**31, (3, 79), dtype=torch.int32).to("xpu")
    both(apply, logits(6), ints([0, 4, 11]), CU_LOGITS, masks)


@pytest.mark.parametrize(("k", "p"), [(True, False), (False, True), (True, True)])
def test_only_the_likeliest_tokens_remain(k: bool, p: bool) -> None:
    """Catches another row's k or p; the interpreter fails at this kernel."""
    sampler = pytest.importorskip("vllm.v1.sample.ops.topk_topp_triton")
    most, share = [5, 1, VOCABULARY, 40], [0.9, 0.1, 1.0, 0.5]
    rows = logits()
    expected = []
    for row, values in enumerate(rows.cpu().double()):
        order = values.argsort(descending=True)[: most[row] if k else None]
        likely = values[order].softmax(0)
        # A token stays if those before it have not reached the share.
        before = likely.cumsum(0) - likely
        expected.append(
            set(order[before < share[row]].tolist() if p else order.tolist())
        )
    got = sampler.apply_top_k_top_p_triton(
        rows.clone(),
        ints(most) if k else None,
        torch.tensor(share, device="xpu") if p else None,
    )
    assert torch.equal(torch.where(got.isinf(), rows, got), rows)
    for row, values in enumerate(got.cpu()):
        assert set(values.isfinite().nonzero().flatten().tolist()) == {
            token for token in expected[row] if rows[row, token].isfinite()
        }
