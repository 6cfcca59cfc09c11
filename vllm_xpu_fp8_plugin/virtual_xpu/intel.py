# SPDX-License-Identifier: Apache-2.0
"""Intel's SYCL and OpenCL runtimes for CPUs, as pip installs them."""

import ctypes
import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

# In the order in which they are loaded, each before what needs it by name. The
# wheels put them where no search path leads.
_LIBRARIES = {
    "intel-cmplr-lib-rt": ("libintlc.so.5", "libirng.so", "libimf.so", "libsvml.so"),
    "tcmlib": ("libhwloc.so.15",),
    "tbb": ("libtbb.so.12", "libtbbmalloc.so.2"),
    "umf": ("libumf.so.1",),
    "intel-opencl-rt": ("libOpenCL.so.1",),
    "intel-sycl-rt": ("libsycl.so.9",),
}
# LLVM's allocator of registers for unoptimised code, and no scheduling: long kernels,
# those with an Intel GPU's instructions, compile in half the time. Others gain nothing
# by it, and run two to three times slower.
_COMPILES_QUICKLY = (
    "-regalloc=fast -optimize-regalloc=false -enable-misched=false -disable-post-ra"
)
_INSTALL = "pip install 'vllm-xpu-fp8-plugin[emulation]'"


@dataclass(frozen=True)
class IntelRuntime:
    """Where Intel's runtimes are.

    Attributes:
        version: Of intel-sycl-rt.
        include: Folder of the SYCL headers.
        paths: Name of each library -> its path.

    """

    version: str
    include: Path
    paths: dict[str, Path]

    def library(self, name: str) -> Path:
        """Return the path of a library."""
        return self.paths[name]

    def load(self, cache: Path, layer: Path, long_kernels: bool) -> None:
        """Load them into this process, and have them run on the CPU device.

        Args:
            cache: Folder for kernels that are compiled when first called.
            layer: The library that sees launches of kernels.
            long_kernels: Whether those with an Intel GPU's instructions run.

        """
        os.environ.update(self.settings(cache, layer, long_kernels, os.environ))
        for names in _LIBRARIES.values():
            for name in names:
                mode = ctypes.RTLD_GLOBAL if name == "libOpenCL.so.1" else 0
                ctypes.CDLL(str(self.library(name)), mode)

    def settings(
        self, cache: Path, layer: Path, long_kernels: bool, given: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the variables that the libraries go by, beside those `given`.

        What a user gave stays as it is. What was inherited of a process with kernels of
        the other kind does not: the runtime finds a kernel again by its code alone,
        whatever it was compiled with.
        """
        folder = f"{processor()}-{'long' if long_kernels else 'short'}"
        settings = {
            # The wheel's .icd file names a path of the machine that it was built on.
            "OCL_ICD_FILENAMES": str(self.library("libintelocl.so")),
            # Level Zero would be asked for a GPU first.
            "ONEAPI_DEVICE_SELECTOR": "opencl:cpu",
            "CL_CONFIG_LLVM_OPTIONS": _COMPILES_QUICKLY if long_kernels else "",
            "SYCL_CACHE_PERSISTENT": "1",
            "SYCL_CACHE_DIR": str(cache / folder),
        }
        ours = {
            "CL_CONFIG_LLVM_OPTIONS": _COMPILES_QUICKLY,
            "SYCL_CACHE_DIR": str(cache),
        }
        for name in settings:
            value = given.get(name, "")
            if value and not (name in ours and value.startswith(ours[name])):
                settings[name] = value
        # Another build's may be inherited.
        layers = given.get("OPENCL_LAYERS", "").split(":")
        others = [path for path in layers if path and Path(path).name != layer.name]
        return {**settings, "OPENCL_LAYERS": ":".join([str(layer), *others])}


def processor() -> str:
    """Return a name for this kind of processor.

    Kernels are compiled for its instructions, and the runtime does not compile anew
    what was kept for another's, as in a home folder that several machines share.
    """
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    first = text.partition("\n\n")[0].splitlines()
    flags = [line for line in first if line.startswith(("flags", "model name"))]
    return hashlib.sha256("\n".join(flags).encode()).hexdigest()[:12]


def find() -> tuple[IntelRuntime | None, str]:
    """Return the runtimes, or None and why there are none, with what to do."""
    if platform.machine() != "x86_64":
        return None, f"Intel's runtime is for x86-64, this is {platform.machine()}"
    paths: dict[str, Path] = {}
    for package, names in _LIBRARIES.items():
        wanted = [*names, *(["libintelocl.so"] if package == "intel-opencl-rt" else [])]
        try:
            files = distribution(package).files or []
        except PackageNotFoundError:
            return None, f"{package} is not installed ({_INSTALL})"
        for name in wanted:
            found = next((f for f in files if f.name == name), None)
            path = Path(str(found.locate())).resolve() if found else None
            if path is None or not path.is_file():
                return None, f"{package} has no {name} (reinstall it: {_INSTALL})"
            paths[name] = path
    sycl = distribution("intel-sycl-rt")
    header = next(
        (f for f in sycl.files or [] if f.match("include/sycl/sycl.hpp")), None
    )
    if header is None:
        return None, f"intel-sycl-rt has no headers (reinstall it: {_INSTALL})"
    include = Path(str(header.locate())).resolve().parent.parent
    return IntelRuntime(sycl.version, include, paths), ""
