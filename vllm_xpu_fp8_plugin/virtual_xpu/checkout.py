# SPDX-License-Identifier: Apache-2.0
"""Has Python import the kernel package that is built, not a checkout's sources.

A checkout of vllm-xpu-kernels has the package's Python files and none of its
libraries. Who runs its tests stands in it, so Python looks there first.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from vllm_xpu_fp8_plugin.kernel_package import installed

_PACKAGE = "vllm_xpu_kernels"


class _BuiltPackage(importlib.abc.MetaPathFinder):
    """Finds the kernel package where its libraries are."""

    def __init__(self, entry: str) -> None:
        self._entry = [entry]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _PACKAGE:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, self._entry)


def pass_over() -> None:
    """Have a kernel package without libraries stand back behind one that has some.

    Nothing changes where the first one on `sys.path` has libraries, or none has.
    """
    if _PACKAGE in sys.modules:
        return
    for entry in sys.path:
        spec = importlib.machinery.PathFinder.find_spec(_PACKAGE, [entry])
        folders = (spec and spec.submodule_search_locations) or []
        if any(installed.library_names(Path(folder)) for folder in folders):
            sys.meta_path.insert(0, _BuiltPackage(entry))
            return
