# SPDX-License-Identifier: Apache-2.0
"""What an arm runs on, as far as files tell: neither torch nor vLLM is imported."""

import os
from pathlib import Path
from typing import Any

from vllm_xpu_fp8_plugin import __version__
from vllm_xpu_fp8_plugin.verify import child

_ROOT = Path("/")

# Files that name a device or its kernel driver.
_FILES = (
    "sys/class/drm/card*/device/vendor",
    "sys/class/drm/card*/device/device",
    "sys/class/drm/card*/device/revision",
    "sys/module/xe/version",
    "sys/module/xe/srcversion",
    "sys/module/i915/version",
    "sys/module/i915/srcversion",
    "proc/driver/nvidia/version",
    "proc/sys/kernel/osrelease",
)
# Libraries that are links to a file with their version in its name: Intel's compute
# runtime and its compiler.
_LIBRARIES = (
    "usr/lib/*/libze_intel_gpu.so.1",
    "usr/lib*/libze_intel_gpu.so.1",
    "usr/lib/*/libigc.so.*",
    "usr/lib*/libigc.so.*",
)


def describe(root: Path = _ROOT) -> dict[str, Any]:
    """Return versions, devices and drivers; `root` is the root of the file system."""
    found: dict[str, Any] = {
        "versions": {**child.versions(), "vllm-xpu-fp8-plugin": __version__},
        "processor": _processor(root),
    }
    for pattern in _FILES:
        for path in sorted(root.glob(pattern)):
            found[str(path.relative_to(root))] = _text(path).strip()
    for pattern in _LIBRARIES:
        for path in sorted(root.glob(pattern)):
            name = str(path.relative_to(root))
            found[name] = os.path.basename(os.path.realpath(path))
    return found


def _processor(root: Path) -> str:
    """Return the CPU's name, on which the virtual XPU and transformers run."""
    lines = _text(root / "proc" / "cpuinfo").splitlines()
    return next((x for x in lines if x.startswith("model name")), os.uname().machine)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
