# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with the virtual XPU itself."""


class VirtualXPUError(RuntimeError):
    """The virtual XPU cannot be had here; the message says what to do."""
