# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` on the virtual GPU: load, clients, bad input, faults, many processes."""
