# SPDX-License-Identifier: Apache-2.0
"""``vllm-xpu-fp8 verify``: does FP8 give the answers that the same model gives without.

`inputs` reads the data, `arm` runs an engine in a process of its own (`vllm_arm`,
`transformers_arm`, both on `child`), `pooling` and `generation` measure, `thresholds`
says what is allowed and why, `verdict` decides, `display` shows it.
"""
