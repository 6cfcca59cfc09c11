# SPDX-License-Identifier: Apache-2.0
"""The measures of embeddings, by hand on a few vectors."""

import math
from typing import Any

import pytest

from tests.verify.pooling_arms import Result, arm, compared
from vllm_xpu_fp8_plugin.verify import pooling


def embeddings(**more: Any) -> Result:
    vectors = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]]
    return arm("embed", vectors, lengths=[[1.0, 0.0]] * 3, **more)


def test_vectors_are_compared_by_direction_and_by_length() -> None:
    """Catches vectors 37 times too long, and a direction lost in their length."""
    candidate = embeddings()
    candidate["items"] = [[37 * x for x in v] for v in candidate["items"]]
    values = compared(embeddings(), candidate)
    assert values["cosine_drift_max"] == pytest.approx(0, abs=1e-12)
    assert values["norm_drift_max"] == pytest.approx(math.log(37))
    candidate = embeddings()
    candidate["lengths"] = [[1.0, 0.0], [0.5, 0.0], [0.0, 0.1]]
    values = compared(embeddings(), candidate)
    assert values["norm_drift_max"] == pytest.approx(math.log(10))
    assert values["length_drift_max"] == pytest.approx(1)
    assert values["length_drift_mean"] == pytest.approx(1 / 3)
    candidate = embeddings(alone=[[1.0, 0.0], [0.6, 0.8]])
    assert compared(embeddings(), candidate)["batch_drift_max"] == pytest.approx(0.2)


def test_lengths_of_vectors_are_compared_by_their_ratio() -> None:
    """Catches a difference, or a product, of norms that are not 1."""
    reference, candidate = embeddings(), embeddings()
    reference["items"][1], candidate["items"][1] = [8.0, 6.0], [4.0, 3.0]
    values = compared(reference, candidate)
    assert values["norm_drift_max"] == pytest.approx(math.log(2))
    assert compared(reference, reference)["norm_drift_max"] == 0


def test_embeddings_that_are_all_not_finite_have_no_drift() -> None:
    """Catches NaN throughout, which is no drift at all."""
    nan = [[math.nan, 0.0]]
    candidate = arm("embed", nan * 4, lengths=nan * 3, alone=nan * 2)
    values = compared(embeddings(), candidate)
    names = ("batch_drift_max", "norm_drift_max", "cosine_drift_max", "score_drift_max")
    assert all(math.isnan(values[name]) for name in names)
    # One row of them says nothing of the others.
    infinite = embeddings(alone=[[math.inf, 0.0], [0.6, 0.8]])
    values = compared(embeddings(), infinite)
    assert values["non_finite"] == 1
    assert values["norm_drift_max"] == pytest.approx(0)
    assert values["batch_drift_max"] == pytest.approx(0.2)


def test_a_vector_of_zeros_is_far_from_any_and_from_none() -> None:
    """Catches a division by zero that is taken for agreement."""
    candidate = embeddings()
    candidate["items"] = [[0.0, 0.0], *candidate["items"][1:]]
    candidate["alone"][0] = [0.0, 0.0]
    values = compared(embeddings(), candidate)
    assert values["cosine_drift_max"] == 1
    assert values["cosine_drift_mean"] == pytest.approx(0.25)
    assert values["norm_drift_max"] == math.inf
    # Both are zero: nothing has changed in length.
    assert compared(candidate, candidate)["norm_drift_max"] == 0


def test_cosines_are_those_of_queries_with_their_documents() -> None:
    """Catches a document that is looked up by its place, not by its text."""
    ranking = {"query": "0", "documents": ["2", "1"]}
    reference = embeddings(plan={"rankings": [ranking]})
    values, _, pairs = pooling.compare(reference, reference)
    assert pairs["reference"] == pytest.approx([0.0, 0.8])
    assert pairs["sizes"] == [2]
    assert values["spread"] == pytest.approx(0.4)
    candidate = embeddings(plan={"rankings": [ranking]})
    candidate["items"] = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-0.6, 0.8]]
    values, _, pairs = pooling.compare(reference, candidate)
    assert pairs["candidate"] == pytest.approx([1.0, 0.0])
    assert values["score_drift_max"] == pytest.approx(1 / 0.4)
    assert values["score_drift_mean"] == pytest.approx(0.9 / 0.4)
    assert values["order_kept"] == -1
    assert values["top1_agreement"] == 0


def test_without_rankings_all_pairs_are_compared() -> None:
    """Catches embeddings of texts alone, which have no order of documents."""
    values, _, pairs = pooling.compare(embeddings(), embeddings())
    assert pairs["reference"] == pytest.approx([0.8, 0.0, -0.6, 0.6, 0.0, 0.8])
    assert "sizes" not in pairs
    assert values["order_kept"] == values["spearman_mean"] == 1
    assert not {"top1_agreement", "ndcg10_agreement"} & set(values)
    many = arm("embed", [[1.0, i] for i in range(70)], lengths=[[1.0, 0.0]] * 3)
    assert len(pooling.compare(many, many)[2]["reference"]) == 64 * 63 // 2
