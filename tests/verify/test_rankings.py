# SPDX-License-Identifier: Apache-2.0
"""The measures of order, by hand."""

import numpy as np
import pytest

from vllm_xpu_fp8_plugin.verify.rank_statistics import Array
from vllm_xpu_fp8_plugin.verify.rankings import graded, order


def scores(*values: float) -> Array:
    return np.array(values)


def test_a_swap_costs_what_the_lead_was_worth() -> None:
    """Catches pairs that weigh alike, and a lead in another unit."""
    reference = [scores(10, 4, 0)]
    kept, _ = order(reference, [scores(3, 2, 1)], 2.0)
    assert kept["order_kept"] == kept["ndcg10_agreement"] == 1
    assert kept["flipped_lead_max"] == 0
    # Leads of 6, 10 and 4; the last is lost.
    swapped, _ = order(reference, [scores(3, 1, 2)], 2.0)
    assert swapped["order_kept"] == pytest.approx((6 + 10 - 4) / 20)
    assert swapped["flipped_lead_max"] == 2
    assert swapped["top1_agreement"] == 1
    first, _ = order(reference, [scores(1, 3, 2)], 2.0)
    assert first["order_kept"] == pytest.approx((-6 - 10 + 4) / 20)
    assert first["flipped_lead_max"] == 5
    assert first["top1_agreement"] == 0
    discounts = 1 / np.log2([2, 3, 4])
    best = 10 * discounts[0] + 4 * discounts[1]
    got = 4 * discounts[0] + 10 * discounts[2]
    assert first["ndcg10_agreement"] == pytest.approx(got / best)
    assert first["spearman_mean"] == pytest.approx(-0.5)


def test_leads_that_are_not_clear_cost_nothing() -> None:
    """Catches the limit of what is clear on the wrong side of a lead."""
    for lead, kept, flipped in ((0.24, 1.0, 0.0), (0.25, -1.0, 0.25)):
        values, remarks = order([scores(lead, 0)], [scores(0, 1)], 1.0)
        assert values["order_kept"] == kept
        assert values["flipped_lead_max"] == flipped
        assert values["top1_agreement"] == float(kept == 1)
        assert bool(remarks) == (kept == 1)


def test_equal_scores_keep_no_lead() -> None:
    """Catches one score for all documents, which has no order to be wrong."""
    values, _ = order([scores(2, 0)], [scores(1, 1)], 1.0)
    assert values["order_kept"] == 0
    assert values["flipped_lead_max"] == 2


def test_rankings_are_pooled_by_their_leads() -> None:
    """Catches a ranking without a lead that weighs as much as one with."""
    reference = [scores(0.1, 0), scores(8, 0), scores(2, 0)]
    candidate = [scores(0, 1), scores(1, 0), scores(0, 1)]
    values, _ = order(reference, candidate, 1.0)
    assert values["order_kept"] == pytest.approx((8 - 2) / 10)
    assert values["top1_agreement"] == pytest.approx(2 / 3)
    assert values["flipped_lead_max"] == 2
    discount = 1 / np.log2(3)
    got = 0.1 * discount + 8 + 2 * discount
    assert values["ndcg10_agreement"] == pytest.approx(got / 10.1)
    assert values["spearman_mean"] == pytest.approx(-1 / 3)


def test_documents_that_are_not_finite() -> None:
    """Catches NaN of the candidate that keeps its place, and of the reference."""
    values, _ = order([scores(3, 0, 1)], [scores(np.nan, 0, 1)], 1.0)
    assert values["order_kept"] == pytest.approx((-3 - 2 + 1) / 6)
    values, _ = order([scores(np.nan, 0, 2)], [scores(9, 0, 1)], 1.0)
    assert values["order_kept"] == 1
    values, _ = order([scores(np.nan, 0), scores(1, 0)], [scores(1, 0)] * 2, 1.0)
    assert values["top1_agreement"] == values["order_kept"] == 1
    values, _ = order([scores(np.nan, 0)], [scores(1, 0)], 1.0)
    assert np.isnan(values["top1_agreement"])
    assert np.isnan(values["spearman_mean"])


def test_scores_may_be_negative_or_all_the_same() -> None:
    """Catches leads over 0 in the place of leads over the last document."""
    discounts = 1 / np.log2([2, 3, 4])
    values, _ = order([scores(-1, -7, -11)], [scores(1, 2, 0)], 1.0)
    best = 10 * discounts[0] + 4 * discounts[1]
    got = 4 * discounts[0] + 10 * discounts[1]
    assert values["ndcg10_agreement"] == pytest.approx(got / best)
    values, _ = order([scores(-3, -3)], [scores(1, 2)], 1.0)
    assert values["ndcg10_agreement"] == values["order_kept"] == 1
    assert values["flipped_lead_max"] == 0


def test_rankings_that_are_missing_are_no_rankings() -> None:
    """Catches an arm with fewer rankings, of which those that are there agree."""
    some = [scores(1, 0)] * 2
    for given in (some[:1], some * 2):
        with pytest.raises(ValueError, match="zip"):
            order(some, given, 1.0)
        with pytest.raises(ValueError, match="zip"):
            graded(rankings(2, [1, 0]), some, given)


def rankings(count: int, grades: list[int] | None) -> list[dict[str, object]]:
    return [{"relevance": grades}] * count


def test_loss_by_grades_is_what_is_lost_for_sure() -> None:
    """Catches a difference that chance explains, called a loss."""
    right, wrong = scores(1, 0), scores(0, 1)
    discount = 1 / np.log2(3)
    losses = np.array([1 - discount] * 5 + [0.0])
    values = graded(rankings(6, [1, 0]), [right] * 6, [wrong] * 5 + [right])
    assert values["ndcg10_labels_reference"] == 1
    assert values["ndcg10_labels_candidate"] == pytest.approx(1 - losses.mean())
    expected = losses.mean() - 2 * losses.std(ddof=1) / np.sqrt(6)
    assert values["ndcg10_labels_loss"] == pytest.approx(expected)
    assert expected > 0.1
    # What one of six loses may be chance, and a gain is no loss.
    values = graded(rankings(6, [1, 0]), [right] * 6, [wrong] + [right] * 5)
    assert values["ndcg10_labels_loss"] == 0
    values = graded(rankings(5, [1, 0]), [right] * 5, [wrong] * 5)
    assert values["ndcg10_labels_loss"] == pytest.approx(1 - discount)


def test_few_or_no_grades() -> None:
    """Catches a loss by four rankings, and by rankings without grades."""
    right, wrong = scores(1, 0), scores(0, 1)
    values = graded(rankings(4, [1, 0]), [right] * 4, [wrong] * 4)
    assert set(values) == {"ndcg10_labels_candidate", "ndcg10_labels_reference"}
    assert graded(rankings(4, None), [right] * 4, [wrong] * 4) == {}
