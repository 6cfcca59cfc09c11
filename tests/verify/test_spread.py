# SPDX-License-Identifier: Apache-2.0
"""The space in which answers are compared, and its unit."""

import numpy as np
import pytest

from vllm_xpu_fp8_plugin.verify import spread
from vllm_xpu_fp8_plugin.verify.spread import (
    AS_GIVEN,
    LOG_ODDS,
    LOG_PROBABILITIES,
    Space,
    response_error,
    space,
    transform,
)


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        ([[0.2], [0.9]], LOG_ODDS),
        ([[0.0], [1.0]], LOG_ODDS),
        ([[0.2], [1.1]], AS_GIVEN),
        ([[-0.1], [0.9]], AS_GIVEN),
        ([[0.2, 0.8], [0.501, 0.5]], LOG_PROBABILITIES),
        # Several labels, each yes or no.
        ([[0.2, 0.9], [0.5, 0.5]], LOG_ODDS),
        ([[1.0], [1.0]], LOG_ODDS),
        ([[np.nan], [0.5]], LOG_ODDS),
        ([[np.nan]], AS_GIVEN),
    ],
)
def test_space_is_told_from_the_answers(answers: list[list[float]], name: str) -> None:
    """Catches logits taken for probabilities, and labels for a softmax."""
    found = space(np.array(answers))
    assert found.name == name
    assert found.least == (0 if name == AS_GIVEN else 0.5)


@pytest.mark.parametrize(
    ("dtype", "end"), [(np.float32, 1e-6), (np.float16, 1e-2), ("bfloat16", 1e-2)]
)
def test_ends_are_as_near_as_the_type_can_tell(dtype: object, end: float) -> None:
    """Catches a step of half precision below 1 taken for a step of three in odds."""
    values = np.array([[0.123456], [0.998765], [0.0123]], dtype=np.float32)
    if dtype == "bfloat16":
        # Below what float16 has.
        values[2] = 1e-9
        values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    elif dtype == np.float16:
        values = values.astype(np.float16)
    assert space(values.astype(float)).end == end
    assert space(np.array([[0.123456, 0.876544]])).end == 1e-12
    assert space(np.array([[0.125, 0.875]])).end == 1e-6


def test_transforms_by_hand() -> None:
    """Catches another base, another end, and rows that mix."""
    odds = transform(np.array([[0.5], [0.9], [0.0], [1.0]]), Space(LOG_ODDS, 1e-6, 0.5))
    end = np.log(1e-6 / (1 - 1e-6))
    assert odds[:, 0] == pytest.approx([0, np.log(9), end, -end])
    rows = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    logs = transform(rows, Space(LOG_PROBABILITIES, 1e-12, 0.5))
    third = np.log(2) / 3
    assert logs[0] == pytest.approx([2 * third, -third, -third])
    assert logs.sum(axis=1) == pytest.approx([0, 0])
    assert logs[1, 0] - logs[1, 1] == pytest.approx(-np.log(1e-12))
    given = np.array([[7.0], [-3.0]])
    assert transform(given, Space(AS_GIVEN, 0, 0)).tolist() == given.tolist()


@pytest.mark.parametrize("name", [AS_GIVEN, LOG_ODDS, LOG_PROBABILITIES])
def test_a_row_that_is_not_finite_is_nan_and_no_other(name: str) -> None:
    """Catches an infinity that is clipped to a probability."""
    rows = np.array([[0.2, np.inf], [0.2, 0.8], [np.nan, 0.1]])
    made = transform(rows, Space(name, 1e-6, 0))
    assert np.isnan(made[[0, 2]]).all()
    assert np.isfinite(made[1]).all()


def test_spread_is_the_greatest_standard_deviation() -> None:
    """Catches a spread over columns, and one that a constant sweep makes small."""
    first, second = np.array([[1.0], [3.0]]), np.array([[10.0], [10.0], [40.0]])
    assert spread.spread(first) == pytest.approx(1)
    assert spread.spread(first, second) == pytest.approx(np.std([10, 10, 40]))
    assert spread.spread(second, first) == pytest.approx(np.std([10, 10, 40]))
    columns = np.array([[100.0, 1.0], [100.0, 3.0]])
    # The columns differ by themselves, which is no spread; but a tenth of the size is.
    size = np.sqrt((2 * 100**2 + 1 + 9) / 4)
    assert spread.spread(columns) == pytest.approx(0.1 * size)
    assert spread.spread(columns - [100.0, 0.0]) == pytest.approx(np.sqrt(0.5))


def test_spread_leaves_out_what_is_not_finite() -> None:
    """Catches one NaN that makes all drift NaN, and a division by nothing."""
    rows = np.array([[1.0], [np.nan], [3.0], [np.inf]])
    assert spread.spread(rows) == pytest.approx(1)
    assert np.isnan(spread.spread(np.array([[np.nan]])))
    assert spread.spread(np.zeros((3, 1))) == 1
    assert spread.spread(np.zeros((0, 1)), np.array([[0.0], [4.0]])) == 2


def test_response_error_is_of_the_slope() -> None:
    """Catches a scale, an input that is ignored or turned round, taken for right."""
    x = np.linspace(-3, 5, 40)[:, None]
    for slope in (0.0, 0.5, 0.9, 1.0, 1.1, 2.0, -1.0):
        made = response_error([x], [slope * x + 7])
        assert made == pytest.approx(abs(slope - 1), abs=1e-9)


def test_response_error_allows_for_noise() -> None:
    """Catches a few answers whose noise is taken for a slope."""
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(200):
        x = rng.normal(size=(20, 1))
        slopes.append(response_error([x], [x + rng.normal(size=(20, 1))]))
    # Two standard errors leave out one in twenty, and these by a little.
    assert np.mean(np.array(slopes) > 0) < 0.1
    assert max(slopes) < 0.5
    x = np.array([[0.0], [1.0], [2.0]])
    y = np.array([[0.0], [3.0], [3.0]])
    # Slope 1.5, residuals -0.5, 1, -0.5; one degree of freedom; a square of 2.
    assert response_error([x], [y]) == max(0.0, 0.5 - 2 * np.sqrt(1.5 / 1 / 2))
    y = np.array([[0.0], [6.1], [12.0]])
    residual = 2 * (0.1 / 3) ** 2 + (0.2 / 3) ** 2
    expected = 5 - 2 * np.sqrt(residual / 1 / 2)
    assert response_error([x], [y]) == pytest.approx(expected)


def test_response_error_has_the_standard_error_of_a_slope() -> None:
    """Catches another count of the degrees of freedom."""
    x = np.arange(8.0)
    y = 2 * x + np.array([0.1, -0.1] * 4)
    slope, residual = np.polyfit(x, y, 1)[0], np.polyfit(x, y, 1, full=True)[1][0]
    error = np.sqrt(residual / (8 - 2) / ((x - x.mean()) ** 2).sum())
    made = response_error([x[:, None]], [y[:, None]])
    assert made == pytest.approx(slope - 1 - 2 * error)


def test_response_error_of_groups_and_gaps() -> None:
    """Catches groups with one mean, and rows that are not finite in either arm."""
    a, b = np.array([[0.0], [1.0], [np.nan], [3.0]]), np.array([[100.0], [101.0]])
    c, d = np.array([[0.0], [1.0], [2.0], [np.inf]]), np.array([[5.0], [6.0]])
    assert response_error([a, b], [c, d]) == pytest.approx(0)
    # Only the first two rows of the first group are known in both arms.
    assert response_error([a, b], [3 * c, 3 * d]) == pytest.approx(2)
    wide = np.array([[0.0, 5.0], [1.0, 7.0], [2.0, np.nan], [np.inf, 1.0]])
    assert response_error([wide], [3 * wide]) == pytest.approx(2)
    with pytest.raises(ValueError, match="zip"):
        response_error([a, b], [c])
    nothing = np.array([[np.nan]])
    assert np.isnan(response_error([nothing], [nothing]))
    assert response_error([nothing, b], [nothing, d]) == pytest.approx(0)
    assert response_error([np.ones((3, 1))], [a[:2].repeat(2, 0)[:3]]) == 0
