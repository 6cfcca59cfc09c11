# SPDX-License-Identifier: Apache-2.0
"""The kernel package's ops in PyTorch, on CPU tensors.

Written from the ops' contracts, computed in float32 and rounded once: an
implementation that is independent of the kernels, which stands in where compiled
code cannot run and checks it where it can.
"""

from vllm_xpu_fp8_plugin.reference.registry import implementations

__all__ = ["implementations"]
