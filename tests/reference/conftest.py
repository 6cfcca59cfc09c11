# SPDX-License-Identifier: Apache-2.0
"""Tests of an op run it in PyTorch, and again as compiled code."""

from collections.abc import Iterator

import pytest

from tests.reference.ops import COMPILED, HOW, Ops


@pytest.fixture(params=HOW)
def how(request: pytest.FixtureRequest) -> Iterator[str]:
    """Have `Ops` run each op in one of two ways."""
    Ops.how = request.param
    yield Ops.how
    Ops.how = HOW[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out calls by which a kernel would write to memory that is another's."""
    items[:] = [
        item
        for item in items
        if item.get_closest_marker("unchecked") is None
        or getattr(item, "callspec").params.get("how") != COMPILED  # noqa: B009
    ]
