# SPDX-License-Identifier: Apache-2.0
"""Tests of vllm_xpu_fp8_plugin.kernel_package."""
