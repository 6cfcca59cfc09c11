# SPDX-License-Identifier: Apache-2.0
"""What the tests' scripts need before they start an engine."""

import os


def set_up() -> None:
    """Switch the virtual XPU on, as conftest does for the tests."""
    os.environ["VLLM_XPU_FP8_PLUGIN"] = "emulate"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["HF_HUB_OFFLINE"] = "1"
