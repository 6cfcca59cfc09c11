# SPDX-License-Identifier: Apache-2.0
"""Compiled ops beside attention that use Xe2 instructions, against float64."""

from typing import Any

import pytest

from tests.reference.compiled_process import printed
from tests.reference.xe2_cases import OPS


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run all in one process."""
    results: dict[str, Any] = printed(tmp_path_factory, "tests.reference.xe2_cases")
    return results


@pytest.mark.parametrize("name", OPS)
def test_op_computes_what_it_should(name: str, found: dict[str, Any]) -> None:
    """Catches sub-groups along the wrong dimension: launches are of 1 x 64 items.

    And a 2D block of each lane's own, in products from 128 tokens on.
    """
    assert not found[name]


def test_what_a_cpu_would_compute_wrongly_is_refused(found: dict[str, Any]) -> None:
    """Catches an output of a convolution that is left as it was."""
    assert "a prefill of 96 features a key head" in found["small heads"]
