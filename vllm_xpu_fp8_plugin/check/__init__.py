# SPDX-License-Identifier: Apache-2.0
"""``vllm-xpu-fp8 check``: every op of the kernel package against float64."""
