# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.reference.sampling, through torch's ops."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from tests.reference import oracle_sampling as oracle
from tests.reference.memory import Slab, is_close
from tests.reference.ops import COMPILED, Ops, refused, release, unchecked

ops = Ops("_xpu_C")

pytestmark = pytest.mark.usefixtures("how")

PROPERTY = settings(max_examples=120, deadline=None, derandomize=True)

# A correct sampler fails once in as many seeds; the seeds are fixed.
SIGNIFICANCE = 1e-4

# The kernel of 0.1.14 draws more than once for tokens that do not fill its sub-groups.
_LANES = 16


def sample(
    logits: Tensor,
    k: Tensor | None = None,
    p: Tensor | None = None,
    mode: str = "raw_logprobs",
    seeds: Any = (0, 0),
) -> tuple[Tensor, Tensor | None]:
    sampled = Slab((len(logits),), torch.int64)
    processed = mode.startswith("processed")
    returned = Slab(tuple(logits.shape), torch.float32) if processed else None
    before = logits.clone()
    ops.topk_topp_sampler(
        sampled.view,
        returned.view if returned else None,
        logits,
        k,
        p,
        mode,
        torch.tensor(seeds),
        1.0,
    )
    assert sampled.is_untouched_outside()
    assert torch.equal(logits.nan_to_num(7), before.nan_to_num(7))
    assert returned is None or returned.is_untouched_outside()
    return sampled.view, returned.view if returned else None


@pytest.mark.parametrize(
    ("has_k", "has_p"), [(False, False), (True, False), (False, True), (True, True)]
)
@PROPERTY
@given(
    st.integers(1, 4),
    st.sampled_from([30, 12, 5, 2]),
    st.booleans(),
    st.sampled_from(["processed_logits", "processed_logprobs"]),
    st.integers(0, 99),
)
def test_what_top_k_and_top_p_keep(
    has_k: bool,
    has_p: bool,
    rows: int,
    vocab: int,
    ties: bool,
    mode: str,
    seed: int,
) -> None:
    """Catches a token too few or too many, and probabilities that do not add up."""
    torch.manual_seed(seed)
    if Ops.how == COMPILED:
        vocab += -vocab % _LANES
        # What top k keeps adds up to nearly 1 there, or to more where tokens tie: with
        # both, p at such a sum may keep a token less.
        ties &= not (has_k and has_p)
    logits = 2 * torch.randn(rows, vocab)
    if ties:
        logits = logits.round()
    k = torch.randint(1, vocab + 1, (rows,)) if has_k else None
    # Sums of rounded probabilities lie beside p, not on it.
    p = torch.rand(rows).clamp(min=0.05) if has_p else None
    if p is not None and seed % 3 == 0 and not (Ops.how == COMPILED and has_k):
        p[0] = 1.0
    sampled, returned = sample(logits, k, p, mode, (seed, 0))
    # The CPU's native exponential and logarithm have 14 bits.
    precision = 2.0**-12 if Ops.how == COMPILED else 1e-5
    assert returned is not None
    for row in range(rows):
        values = logits[row].tolist()
        kept = oracle.kept_tokens(
            values,
            None if k is None else int(k[row]),
            None if p is None else float(p[row]),
        )
        assert int(sampled[row]) in kept
        expected = oracle.log_probabilities(values, kept)
        if mode == "processed_logits":
            masked = [v if t in kept else -math.inf for t, v in enumerate(values)]
            assert returned[row].tolist() == masked
        elif p is None or p[row] == 1:
            exact = torch.tensor(expected).double()
            assert is_close(returned[row], exact, error=precision)
        else:
            finite = {t for t, v in enumerate(returned[row].tolist()) if v > -math.inf}
            assert finite == kept
            total = returned[row].double().exp().sum()
            assert total == pytest.approx(1, abs=precision)


@pytest.mark.parametrize(
    ("k", "p"), [(None, None), (3, None), (None, 0.8), (5, 0.7), (8, 1.0)]
)
def test_frequencies_are_the_probabilities(k: int | None, p: float | None) -> None:
    """Catches a wrong distribution, and rows that draw alike."""
    rows = 6000
    logits = torch.tensor([1.0, 0.5, 2.0, -1.0, 0.0, 1.5, -2.0, 0.9]).repeat(2)
    logits[_LANES // 2 :] -= 1.1
    kept = oracle.kept_tokens(logits.tolist(), k, p)
    sampled, _ = sample(
        logits.expand(rows, -1).contiguous(),
        None if k is None else torch.full((rows,), k),
        None if p is None else torch.full((rows,), p),
        seeds=(7, 40),
    )
    counts = torch.bincount(sampled, minlength=len(logits))
    assert {t for t in range(len(logits)) if counts[t]} <= kept
    expected = [
        rows * math.exp(x) for x in oracle.log_probabilities(logits.tolist(), kept)
    ]
    chosen = sorted(kept)
    test = stats.chisquare(
        [int(counts[t]) for t in chosen], [expected[t] for t in chosen]
    )
    assert test.pvalue > SIGNIFICANCE


def test_a_sample_depends_on_seed_and_offset_only() -> None:
    """Catches randomness from elsewhere, and a seed or an offset that is not used."""
    logits = torch.randn(20, 50)
    first, _ = sample(logits, seeds=(3, 8))
    torch.manual_seed(1)
    again, _ = sample(logits, seeds=(3, 8))
    assert torch.equal(first, again)
    for seeds in ((4, 8), (3, 12), (-3, 8)):
        assert not torch.equal(first, sample(logits, seeds=seeds)[0])


def test_rows_with_seeds_of_their_own_do_not_depend_on_the_batch() -> None:
    """Catches a row's sample that changes with its place or its neighbours."""
    torch.manual_seed(0)
    logits = torch.randn(6, 40)
    seeds = [(row * 11, 4 * row) for row in range(6)]
    if Ops.how == COMPILED and release() < (0, 1, 15):
        pytest.skip("the installed kernel package takes one seed for all rows")
    together, _ = sample(logits, seeds=seeds)
    for row in range(6):
        alone, _ = sample(logits[row : row + 1], seeds=[seeds[row]])
        assert alone[0] == together[row]
    backwards, _ = sample(logits.flip(0).contiguous(), seeds=seeds[::-1])
    assert torch.equal(backwards.flip(0), together)


def test_nothing_is_sampled_of_what_cannot_be() -> None:
    """Catches a sample of a token with probability 0, and of an empty batch."""
    logits = torch.full((200, 9), -math.inf)
    logits[:, 4], logits[:, 7] = 0.0, 1.0
    sampled, _ = sample(logits)
    assert set(sampled.tolist()) == {4, 7}
    sample(logits[:0])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_logit_that_is_nan_is_not_among_the_largest(k: int) -> None:
    """Catches a NaN that takes a place of top-k, as torch's own sorts it first."""
    row = [math.nan, 1.0, 3.0, 2.0, math.nan] + [-9.0] * (_LANES - 5)
    logits = torch.tensor([row] * 50)
    places = torch.full((50,), k)
    sampled, returned = sample(logits, places, mode="processed_logits")
    kept = {2: 3.0, 3: 2.0, 1: 1.0}
    kept = dict(list(kept.items())[:k])
    assert returned is not None
    assert returned[0].tolist() == [kept.get(i, -math.inf) for i in range(_LANES)]
    assert set(sampled.tolist()) <= set(kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_exponential_draws(dtype: torch.dtype) -> None:
    """Catches another distribution, a rate taken for its inverse, draws of 0."""
    rate, info, least = 2.5, torch.finfo(dtype), torch.finfo(torch.float32).eps / 2
    slab = Slab((40, 500), dtype)
    ops.exponential_2d_(slab.view, torch.tensor([5, 16]), rate)
    draws = slab.view.double().flatten()
    assert slab.is_untouched_outside()
    assert draws.min() >= least / rate * 0.99
    # Rounding to bfloat16 moves the distribution by less than half a step.
    distance = stats.kstest(draws.numpy(), stats.expon(scale=1 / rate).cdf).statistic
    assert distance < stats.kstwo.isf(SIGNIFICANCE, len(draws)) + info.eps / 2
    again = torch.empty(40, 500, dtype=dtype)
    ops.exponential_2d_(again, torch.tensor([5, 16]), rate)
    assert torch.equal(again, slab.view)


_LOGITS, _TOKENS = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)

_SEEDS = torch.tensor([0, 0])

_RAW = "raw_logprobs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((_TOKENS, None, _LOGITS.half(), None, None, _RAW, _SEEDS), "logits must be"),
        ((_TOKENS, None, _LOGITS[0], None, None, _RAW, _SEEDS), "2-D"),
        ((_TOKENS, None, torch.ones(4, 2).t(), None, None, _RAW, _SEEDS), "contig"),
        ((_TOKENS.int(), None, _LOGITS, None, None, _RAW, _SEEDS), "random_sampled"),
        ((_TOKENS, None, _LOGITS, _TOKENS.int(), None, _RAW, _SEEDS), "k must be"),
        unchecked(
            (_TOKENS, None, _LOGITS, _TOKENS[:1], None, _RAW, _SEEDS), "k must be .2"
        ),
        ((_TOKENS, None, _LOGITS, None, torch.ones(2).half(), _RAW, _SEEDS), "p must"),
        ((_TOKENS, None, _LOGITS, None, None, "raw", _SEEDS), "logprobs_mode must"),
        unchecked(
            (_TOKENS, None, _LOGITS, None, None, "processed_logits", _SEEDS),
            "to_return",
        ),
        unchecked(
            (_TOKENS, None, _LOGITS, None, None, _RAW, _SEEDS.int()), "seeds must be"
        ),
        ((_TOKENS, None, _LOGITS, None, None, _RAW, torch.ones(3, 2).long()), "seeds"),
    ],
)
def test_what_the_sampler_cannot_take_is_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        ops.topk_topp_sampler(*arguments, 1.0)


@pytest.mark.parametrize(
    ("tensor", "seeds", "message"),
    [
        (_LOGITS.double(), _SEEDS, "tensor must be"),
        (_LOGITS[0], _SEEDS, "rows, columns"),
        unchecked(torch.ones(4, 2).t(), _SEEDS, "contiguous"),
        unchecked(_LOGITS, _SEEDS[:1], "seeds .2"),
        unchecked(_LOGITS, _SEEDS.double(), "seeds must be int64"),
    ],
)
def test_what_the_exponential_refuses_is_refused(
    tensor: Tensor, seeds: Tensor, message: str
) -> None:
    """Catches input that works in PyTorch and fails on an XPU."""
    with refused(message):
        ops.exponential_2d_(tensor, seeds, 1.0)
