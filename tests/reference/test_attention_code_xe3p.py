# SPDX-License-Identifier: Apache-2.0
"""Attention's compiled code for Xe3P on the virtual XPU, against its definition.

The release that `make test` installs has none; its kernels take minutes to compile.
"""

from pathlib import Path

import pytest
import torch

from tests.real_models import unpacked
from tests.reference.attention_cases import BRAIN, CASES, E4M3, FP8_QUERIES
from tests.reference.compiled_process import printed
from vllm_xpu_fp8_plugin import envs

pytestmark = pytest.mark.models
_RELEASE = "vllm-xpu-kernels==0.1.16.2"


def run(factory: pytest.TempPathFactory, *arguments: str) -> dict[str, list[float]]:
    environ = {
        envs.VIRTUAL_GPU.name: "nvl_p",
        "PYTHONPATH": f"{unpacked(_RELEASE)}:{Path(__file__).parents[2]}",
    }
    module = "tests.reference.attention_cases"
    found: dict[str, list[float]] = printed(factory, module, *arguments, **environ)
    return found


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    return run(tmp_path_factory)


@pytest.fixture(scope="module")
def fp8_errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    return run(tmp_path_factory, "fp8-queries")


@pytest.mark.parametrize("name", CASES)
def test_it_is_attention(name: str, errors: dict[str, list[float]]) -> None:
    """Catches payloads that are one, or not moved on, and any of Xe2's faults."""
    error, largest = errors[name]
    unit = 2.0**-8 if CASES[name].dtype == BRAIN else 2.0**-11
    assert error <= unit * largest


@pytest.mark.parametrize("name", FP8_QUERIES)
def test_fp8_queries_are_taken_with_their_scale(
    name: str, fp8_errors: dict[str, list[float]]
) -> None:
    """Catches a `dpas` of FP8 with a wrong meaning, and a query's scale left out.

    Weights are rounded to the query's type, of three or two bits of mantissa.
    """
    error, _ = fp8_errors[name]
    kind: torch.dtype | None = FP8_QUERIES[name].query
    assert error <= (2.0**-4 if kind == E4M3 else 2.0**-3)
