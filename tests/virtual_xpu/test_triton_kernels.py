# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.virtual_xpu.triton_kernels, against Triton's interpreter."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vllm_xpu_fp8_plugin import virtual_xpu
from vllm_xpu_fp8_plugin.virtual_xpu import triton_kernels

virtual_xpu.enable()
torch.manual_seed(0)

# Rows of a batch are scattered over the places for requests.
PLACES, VOCABULARY, LENGTH = 9, 2500, 64
POISON = 77


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what runs a launcher both ways and compares all that was written."""
    find = triton_kernels.find
    found: list[object] = []

    def count(*kernel: Any) -> object:
        found.append(find(*kernel))
        return found[-1]

    def run(
        launch: Callable[..., Any], *args: Any, atol: float = 0, **more: Any
    ) -> Any:
        results = []
        for way in (lambda *_: None, count):
            monkeypatch.setattr(triton_kernels, "find", way)
            copies = [a.clone() if isinstance(a, Tensor) else a for a in args]
            results.append((launch(*copies, **more), copies))
        assert found and None not in found, "the kernel has other parameters here"
        for ours, theirs in zip(
            _tensors(results[1]), _tensors(results[0]), strict=True
        ):
            torch.testing.assert_close(
                ours.cpu(), theirs.cpu(), rtol=0, atol=atol, equal_nan=True
            )
        return results[0][0]

    return run


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def module(name: str) -> Any:
    """Return a module of vLLM, or skip where this vLLM does not have it."""
    return pytest.importorskip(f"vllm.v1.worker.{name}")


def ints(values: Any, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device="xpu")


def random(high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.randint(high, shape, dtype=dtype).to("xpu")


def poisoned(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.full(shape, POISON, dtype=dtype, device="xpu")


# Four requests: in the prompt, at its end, decoding, decoding with two drafts.
IDX = ints([5, 0, 8, 3], torch.int64)
STARTS = ints([0, 7, 10, 11, 14])
COMPUTED = ints([13, POISON, POISON, 30, POISON, 4, POISON, POISON, 25])
PREFILL = ints([16, POISON, POISON, 30, POISON, 20, POISON, POISON, 20])
SEQ_LENS = ints([11, 16, 26, 33])
CU_LOGITS = ints([0, 1, 2, 3, 6])


def test_every_function_is_found_in_this_vllm() -> None:
    """Catches a kernel that vLLM changed: it would silently take a second a step."""
    from packaging.version import Version
    from vllm import __version__

    if Version(__version__).release < (0, 32):
        pytest.skip("these are the kernels of 0.32")
    missing = []
    for place, functions in triton_kernels._FUNCTIONS.items():
        for name in functions:
            kernel = importlib.import_module(place)
            for part in name.split("."):
                kernel = getattr(kernel, part, None)
            if kernel is None or not triton_kernels.find(
                kernel.fn, tuple(kernel.arg_names)
            ):
                missing.append(name)
    # The name that it had before 0.32.
    assert missing == ["_compute_slot_mapping_kernel"]


def test_a_kernel_with_other_parameters_is_interpreted() -> None:
    """Catches arguments of another release's kernel that are taken for this one's."""
    sampler = module("gpu.sample.logprob")
    kernel = sampler._ranks_kernel
    assert triton_kernels.find(kernel.fn, tuple(kernel.arg_names))
    assert not triton_kernels.find(kernel.fn, (*kernel.arg_names, "NEW"))


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


def logits(rows: int = 4) -> Tensor:
    values = torch.randn(rows, VOCABULARY) * 4
    values[0, 3] = float("-inf")
    return values.to("xpu")


FLOATS = torch.tensor([0.7, 9, 9, 0, 9, 1.3, 9, 9, 1.0], device="xpu")


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
