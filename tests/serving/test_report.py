# SPDX-License-Identifier: Apache-2.0
"""What `make soak` says of its figures."""

import copy
from typing import Any

import pytest

from tests.serving import endurance, report, traffic


def test_every_bar_was_met() -> None:
    """Catches figures that were committed though a bar was missed."""
    found = report.load()
    assert [row.what for row in report.rows(found) if not row.met] == []
    assert found["endurance"]["requests"] >= 10_000
    assert len(report.table(found).splitlines()) == 4 + len(report.rows(found))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("load.all_at_once.failed", 1),
        ("load.steps.1.failed", 1),
        ("load.steps.3.errors", {"Connection reset by peer": 1}),
        ("load.steps.4.median_ms", 1e6),
        ("endurance.requests", 9_999),
        ("endurance.failed", 1),
        ("endurance.wrong", 1),
        ("endurance.slope_bytes", 5000.0),
        ("endurance.grown_in", 18),
        ("endurance.files", [10, 11]),
        ("endurance.processes", [3, 4]),
        ("clients.0.largest_difference", float("nan")),
        ("bad_input.compared.made-up texts.unlike", ["a: 500, without the plugin 200"]),
        ("bad_input.compared.written down.largest_difference", float("inf")),
        ("bad_input.changed", 0.1),
    ],
)
def test_a_figure_beyond_its_bar_is_missed(path: str, value: Any) -> None:
    """Catches a bar that cannot be missed."""
    found = copy.deepcopy(report.load())
    *way, last = path.split(".")
    place: Any = found
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    assert sum(not row.met for row in report.rows(found)) == 1
    assert "**no**" in report.table(found)


def test_an_answer_that_is_no_match_is_far_off() -> None:
    """Catches NaN, and a missing number, taken for a small difference."""
    assert traffic.difference([1.0, 2.0], [1.0, 2.5]) == 0.5
    for wrong in ([1.0], [1.0, float("nan")], [1.0, float("inf")]):
        assert traffic.difference([1.0, 2.0], wrong) == float("inf")
    assert traffic.difference([float("nan")], [1.0]) == float("inf")


def test_growth_is_told_from_noise() -> None:
    """Catches a leak of 2 KiB a request that is hidden by what comes and goes."""
    noise = [(i * 7919 % 13) << 20 for i in range(500)]
    flat = [(20 * i, (1000 << 20) + n) for i, n in enumerate(noise)]
    leak = [(n, held + 2048 * n) for n, held in flat]
    assert abs(endurance.growth(flat)["slope_bytes"]) < 200
    assert endurance.growth(flat)["grown_in"] <= report.GROWS
    assert endurance.growth(leak)["slope_bytes"] == pytest.approx(2048, rel=0.5)


def test_growth_is_told_from_a_pool_that_grows_in_steps() -> None:
    """Catches a leak below the slope that is allowed, and steps taken for a leak."""
    held = [(20 * i, (1000 << 20) + (8 << 20) * (i > 300)) for i in range(500)]
    leak = [(n, size + 300 * n) for n, size in held]
    assert endurance.growth(held)["slope_bytes"] == 0
    assert endurance.growth(held)["grown_in"] == 1
    assert endurance.growth(leak)["slope_bytes"] < report.SLOPE
    assert endurance.growth(leak)["grown_in"] > report.GROWS
