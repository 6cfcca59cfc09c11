# SPDX-License-Identifier: Apache-2.0
"""The software XPU: the ops of vllm-xpu-kernels on CPU tensors.

It stands in for compiled kernels at the level of PyTorch ops. All Python above
them, vLLM's and the kernel package's own, runs unmodified.
"""

from vllm_xpu_fp8_plugin.emulation.registry import coverage, install

DEVICE_NAME = "Emulated Intel XPU (software)"

__all__ = ["DEVICE_NAME", "coverage", "install"]
