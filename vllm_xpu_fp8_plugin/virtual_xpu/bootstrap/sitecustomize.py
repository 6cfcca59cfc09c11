# SPDX-License-Identifier: Apache-2.0
"""Gives each Python of ``vllm-xpu-fp8 run`` its virtual XPU once it imports torch.

Python imports this module at start. A process that never imports torch pays nothing.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_HERE = str(Path(__file__).parent)


class _Loader(importlib.abc.Loader):
    """Loads torch, then enables the virtual XPU."""

    def __init__(self, torch: importlib.abc.Loader) -> None:
        self._torch = torch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._torch.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._torch.exec_module(module)
        try:
            from vllm_xpu_fp8_plugin import virtual_xpu
        except ImportError as e:
            raise SystemExit(
                f"vllm-xpu-fp8 run: {sys.executable} has no vllm-xpu-fp8-plugin ({e}). "
                "Install it there."
            ) from None
        try:
            virtual_xpu.enable()
        except virtual_xpu.VirtualXPUError as e:
            raise SystemExit(f"vllm-xpu-fp8 run: {e}") from None


class _Finder(importlib.abc.MetaPathFinder):
    """Finds torch as the others do, with another loader.

    It stays: vLLM and transformers ask where torch is before they import it.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torch":
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None


def _import_the_next() -> None:
    """Run the sitecustomize that this one stands before, if there is one."""
    rest = [entry for entry in sys.path if entry != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


sys.meta_path.insert(0, _Finder())
_import_the_next()
