# SPDX-License-Identifier: Apache-2.0
"""What each op should compute, from its definition in float64, and calls to try.

Contracts: the sources of vllm-xpu-kernels, and `vllm_xpu_fp8_plugin.reference`, which
is written apart from this, in float32, and says what the arguments are.
"""
