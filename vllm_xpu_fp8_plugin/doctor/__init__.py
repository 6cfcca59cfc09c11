# SPDX-License-Identifier: Apache-2.0
"""Checks of an installation and a model, for ``vllm-xpu-fp8 doctor``."""
