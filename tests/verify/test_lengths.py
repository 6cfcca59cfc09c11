# SPDX-License-Identifier: Apache-2.0
"""What a length sweep says."""

import numpy as np
import pytest

from vllm_xpu_fp8_plugin.verify.lengths import OFF, describe_lengths, sweep

SIZES = [1, 5, 64, 69, 128, 133, 191, 197, 261]
WORK = {"task": "generate", "page": 64, "lengths": [[0] * n for n in SIZES]}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "at none of the lengths of the sweep"),
        ([128], "at 128 tokens"),
        ([261], "at 261 tokens"),
        ([5, 69, 133], "at lengths 5, 69, 133: length % 64 == 5"),
        ([64, 128], "at lengths 64, 128: length % 64 == 0"),
        ([191, 197, 261], "at all lengths from 191 on"),
        ([133, 197, 261], "at lengths 133, 197, 261: length % 64 == 5"),
        ([1, 128], "at 1, 128 tokens"),
        ([1, 5, 64, 69, 128, 133, 191], "at 1, 5, 64, 69, 128, 133, ... tokens"),
        ([1, 5, 64, 69, 128, 133], "at 1, 5, 64, 69, 128, 133 tokens"),
    ],
)
def test_lengths_are_named_by_what_they_share(found: list[int], said: str) -> None:
    """Catches a remainder or a first length that is not told, or told for nothing."""
    assert describe_lengths(found, WORK) == said


def test_two_last_lengths_are_all_from_there_on() -> None:
    """Catches a tail of two that is listed as two lengths."""
    work = {"page": 64, "lengths": [[0] * n for n in (2, 128, 190)]}
    assert describe_lengths([128, 190], work) == "at all lengths from 128 on"
    values: dict[str, float] = {}
    remarks: dict[str, str] = {}
    sweep({**work, "task": "score"}, np.array([0.3, 0.1, 0.2]), values, remarks)
    assert remarks == {"length_drift_max": "at 2 tokens"}


def swept(drift: list[float]) -> tuple[dict[str, float], dict[str, str]]:
    values: dict[str, float] = {}
    remarks: dict[str, str] = {}
    sweep(WORK, np.array(drift), values, remarks)
    return values, remarks


def test_sweep_by_hand() -> None:
    """Catches a limit on the wrong side, and a length that is off and not named."""
    limit = OFF["generate"]
    values, remarks = swept([0, 0.1, 0, limit, 0, 0, limit + 0.1, 2, 3])
    assert values["length_drift_max"] == 3
    assert values["length_drift_mean"] == pytest.approx((0.1 + 2 * limit + 5.1) / 9)
    assert values["lengths_off"] == pytest.approx(3 / 9)
    assert remarks["lengths_off"] == "at all lengths from 191 on"
    assert remarks["length_drift_max"] == "at 261 tokens"
    values, remarks = swept([0.2, *[0.1] * 8])
    assert values["lengths_off"] == 0
    assert remarks == {"length_drift_max": "at 1 token"}


def test_sweep_with_what_is_not_finite() -> None:
    """Catches NaN that hides a length, and an infinite drift that is left out."""
    nan, inf = float("nan"), float("inf")
    values, remarks = swept([nan, *[0.5] * 7, 0.7])
    assert values["length_drift_max"] == 0.7
    assert values["length_drift_mean"] == pytest.approx(4.2 / 8)
    values, remarks = swept([nan, inf, *[0.5] * 7])
    assert values["length_drift_max"] == inf
    assert values["lengths_off"] == pytest.approx(1 / 8)
    assert remarks["lengths_off"] == "at 5 tokens"
    values, remarks = swept([nan] * 9)
    assert all(np.isnan(x) for x in values.values())
    assert set(values) == {"length_drift_max", "length_drift_mean", "lengths_off"}
