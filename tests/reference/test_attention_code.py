# SPDX-License-Identifier: Apache-2.0
"""Attention's own compiled code on the virtual XPU, against its definition."""

import pytest

from tests.reference.attention_cases import BRAIN, CASES
from tests.reference.compiled_process import printed


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Run all cases in one process."""
    found: dict[str, tuple[float, float]] = printed(
        tmp_path_factory, "tests.reference.attention_cases"
    )
    return found


@pytest.mark.parametrize("name", CASES)
def test_it_is_attention(name: str, errors: dict[str, tuple[float, float]]) -> None:
    """Catches an instruction with a wrong meaning, in any of its uses.

    Weights and results are rounded to the query's type, sums are float32.
    """
    error, largest = errors[name]
    unit = 2.0**-8 if CASES[name].dtype == BRAIN else 2.0**-11
    assert error <= unit * largest
