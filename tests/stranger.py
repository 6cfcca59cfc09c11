# SPDX-License-Identifier: Apache-2.0
"""A folder of a stranger's, of which nothing may run: a downloaded model's, say."""

import sys
from pathlib import Path

# What the package, vLLM and what these start import from site-packages.
_INSTALLED = (
    "huggingface_hub",
    "matplotlib",
    "numpy",
    "ray",
    "rich",
    "sitecustomize",
    "torch",
    "tqdm",
    "transformers",
    "usercustomize",
    "vllm",
    "vllm_xpu_fp8_plugin",
    "vllm_xpu_kernels",
)


class Stranger:
    """A folder with a module of every name that could be imported.

    Attributes:
        folder: The folder.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._marker = folder / "has_run.txt"
        folder.mkdir(exist_ok=True)
        code = f"open({str(self._marker)!r}, 'a').write(__name__ + '\\n')\n"
        for name in (*sys.stdlib_module_names, *_INSTALLED):
            (folder / f"{name}.py").write_text(code)
        # A checkout of vLLM looks like this.
        (folder / "vllm.py").unlink()
        (folder / "vllm/platforms").mkdir(parents=True)
        for package in ("vllm", "vllm/platforms"):
            (folder / package / "__init__.py").write_text(code)
        (folder / "matplotlibrc").write_text("no.such.key: stranger\n")

    def has_run(self) -> list[str]:
        """Return the names of the modules that ran."""
        return self._marker.read_text().split() if self._marker.exists() else []
