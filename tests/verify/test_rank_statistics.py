# SPDX-License-Identifier: Apache-2.0
"""Rank statistics, against scipy and by definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vllm_xpu_fp8_plugin.verify import rank_statistics

VALUES = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        *[st.lists(st.integers(-3, 3).map(float), min_size=n, max_size=n)] * 2
    )
)


@given(VALUES)
def test_rank_correlation_is_scipys(pair: tuple[list[float], list[float]]) -> None:
    """Catches a wrong treatment of ties."""
    a, b = map(np.array, pair)
    assert rank_statistics.ranks(a).tolist() == stats.rankdata(a).tolist()
    if np.ptp(a) and np.ptp(b):
        assert rank_statistics.spearman(a, b) == pytest.approx(
            stats.spearmanr(a, b).statistic
        )


@given(VALUES)
def test_without_an_order_there_is_no_agreement(
    pair: tuple[list[float], list[float]],
) -> None:
    """Catches all-equal scores that pass for a kept order, and NaN."""
    a = np.array(pair[0])
    constant = np.zeros_like(a)
    expected = float(not np.ptp(a))
    assert rank_statistics.spearman(a, constant) == expected


def test_ndcg_by_hand() -> None:
    """Catches a wrong discount, and grades taken in the wrong order."""
    gains, scores = np.array([3.0, 0.0, 2.0]), np.array([0.1, 0.9, 0.5])
    got = 0 / 1 + 2 / np.log2(3) + 3 / 2
    best = 3 / 1 + 2 / np.log2(3)
    assert rank_statistics.ndcg(gains, scores) == pytest.approx(got / best)
    assert rank_statistics.ndcg(gains, gains) == 1
    assert rank_statistics.ndcg(np.zeros(3), scores) == 1


@given(st.lists(st.integers(0, 3), max_size=30))
def test_longest_run_is_the_longest_group(tokens: list[int]) -> None:
    """Catches an off-by-one at either end."""
    groups = [len(list(g)) for _, g in itertools.groupby(tokens)]
    assert rank_statistics.longest_run(tokens) == max(groups, default=0)
