# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.virtual_xpu.triton_kernels: which kernels are replaced."""

import importlib

import pytest

from tests.virtual_xpu.triton_kernels.arguments import (
    module,
)
from vllm_xpu_fp8_plugin.virtual_xpu import triton_kernels


def test_every_function_is_found_in_this_vllm() -> None:
    """Catches a kernel that vLLM changed: it would silently take a second a step."""
    from packaging.version import Version
    from vllm import __version__

    if Version(__version__).release < (0, 32):
        pytest.skip("these are the kernels of 0.32")
    missing = []
    for place, functions in triton_kernels._FUNCTIONS.items():
        for name in functions:
            kernel = importlib.import_module(place)
            for part in name.split("."):
                kernel = getattr(kernel, part, None)
            if kernel is None or not triton_kernels.find(
                kernel.fn, tuple(kernel.arg_names)
            ):
                missing.append(name)
    # The name that it had before 0.32.
    assert missing == ["_compute_slot_mapping_kernel"]


def test_a_kernel_with_other_parameters_is_interpreted() -> None:
    """Catches arguments of another release's kernel that are taken for this one's."""
    sampler = module("gpu.sample.logprob")
    kernel = sampler._ranks_kernel
    assert triton_kernels.find(kernel.fn, tuple(kernel.arg_names))
    assert not triton_kernels.find(kernel.fn, (*kernel.arg_names, "NEW"))
