# SPDX-License-Identifier: Apache-2.0
"""Compiles the device's libraries, once for a torch and a SYCL runtime.

They stand in for `libc10_xpu.so`, `libtorch_xpu.so` and Level Zero's loader, which a
torch for the CPU has not, and bring torch's XPU device (``csrc``).
"""

import errno
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.virtual_xpu.errors import VirtualXPUError
from vllm_xpu_fp8_plugin.virtual_xpu.intel import IntelRuntime, processor

_SOURCES = Path(__file__).parent / "csrc"
# A library's parts; the sources of one read the same headers, which cost most of the
# time, and are compiled as one.
_Parts = dict[str, tuple[str, ...]]
_DEVICE: _Parts = {
    "dispatch": ("alias", "call", "results", "fallback", "few_rows"),
    "device": (
        *("memory", "allocators", "pinned", "device", "hooks", "host_memory"),
        *("generator", "mem_pool"),
    ),
    "few_rows_kernel": ("few_rows_kernel",),
}
_SYCL: _Parts = {
    "runtime": ("sycl_runtime", "virtual_memory"),
    "images": ("architecture", "images", "spirv", "spirv_builder", "visa"),
    "work_groups": ("loops", "work_groups"),
    "xe2": (
        *("xe2_arithmetic", "xe2_assembly", "xe2_block2d", "xe2_dpas", "xe2_floats"),
        *("xe2_registers", "xe2_rewrite", "xe2_strip"),
    ),
}
_TORCH: _Parts = {"torch_xpu": ("torch_xpu",)}
_LAYER: _Parts = {"opencl_layer": ("opencl_layer",)}
_FLAGS = (
    "-std=c++20",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    # Headers of torch and SYCL warn.
    "-w",
)
_WIDE_VECTORS = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
_MORE_FLAGS = {
    "runtime": ("-DC10_XPU_BUILD_MAIN_LIB",),
    # torch's threads; torch has loaded the library that these take.
    "dispatch": ("-fopenmp",),
    # The cache folder is one of this processor.
    "few_rows_kernel": ("-O3", "-march=native", *_WIDE_VECTORS),
}


def libraries(intel: IntelRuntime | None) -> Path:
    """Return the folder of the compiled libraries, which it compiles if need be.

    Args:
        intel: Intel's runtime, or None for a device without compiled kernels.

    Returns:
        A folder with ``libvirtual_xpu.so``, and with `intel` also ``libc10_xpu.so``,
        ``libtorch_xpu.so`` and ``libze_loader.so.1``.

    Raises:
        VirtualXPUError: There is no compiler, it fails, or the cache folder cannot be
            written.

    """
    compiler = _compiler()
    target = cache_folder() / "device" / _key(compiler, intel)
    if (target / "complete").exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_process(target.with_suffix(".lock")):
            # Another process may have made it meanwhile.
            if not (target / "complete").exists():
                shutil.rmtree(target, ignore_errors=True)
                _compile_into(target, compiler, intel)
    except OSError as e:
        raise VirtualXPUError(
            f"The virtual XPU's libraries cannot be written to {target.parent} ({e}). "
            f"Set {envs.CACHE.name} to a folder that can."
        ) from e
    return target


def cache_folder() -> Path:
    """Return the folder for what is compiled, by default below the user's cache."""
    if named := envs.CACHE.get():
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vllm-xpu-fp8-plugin"


def forget(folder: Path) -> None:
    """Remove compiled libraries that do not load, so that they are made anew."""
    shutil.rmtree(folder, ignore_errors=True)


def _parts(with_sycl: bool) -> _Parts:
    # The largest first, so that no core waits for it at the end.
    return _SYCL | _DEVICE | _TORCH | _LAYER if with_sycl else _DEVICE


def _compiler() -> list[str]:
    named = os.environ.get("CXX")
    for command in [named] if named else ["g++", "c++", "clang++"]:
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    wanted = (
        f"CXX={named} is not a command" if named else "No C++ compiler is installed"
    )
    raise VirtualXPUError(
        f"{wanted}. The virtual XPU compiles its device's libraries once. Install "
        "one (on Debian and Ubuntu: apt-get install g++), or set CXX to one."
    )


def _key(compiler: list[str], intel: IntelRuntime | None) -> str:
    import torch

    digest = hashlib.sha256()
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    parts = (
        torch.__version__,
        str(Path(torch.__file__).resolve().parent),
        torch.version.git_version,
        processor(),
        intel.version if intel else "no SYCL",
        str(intel.include) if intel else "",
        *compiler,
        *_FLAGS,
        str((_DEVICE, _SYCL, _TORCH, _LAYER)),
        str(_MORE_FLAGS),
    )
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()[:16]


@contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile_into(
    target: Path, compiler: list[str], intel: IntelRuntime | None
) -> None:
    import torch

    print(
        "Compiling the virtual XPU's device libraries, once for this torch "
        "(half a minute to two).",
        file=sys.stderr,
        flush=True,
    )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as name:
        work = Path(name)
        include = work / "include"
        macros = include / "c10/xpu/impl/xpu_cmake_macros.h"
        macros.parent.mkdir(parents=True)
        # A header that torch's build makes for an XPU, and a CPU's does not have.
        macros.write_text("#pragma once\n#define C10_XPU_BUILD_SHARED_LIBS\n")
        torch_folder = Path(torch.__file__).parent
        flags = [*_FLAGS, f"-I{include}", f"-I{torch_folder / 'include'}"]
        if intel:
            flags.append(f"-I{intel.include}")

        def compile_part(part: str, sources: tuple[str, ...]) -> None:
            more = _MORE_FLAGS.get(part, ())
            path = work / f"{part}.cpp"
            lines = [f'#include "{_SOURCES / name}.cpp"\n' for name in sources]
            path.write_text("".join(lines))
            _run([*compiler, *flags, *more, "-c", str(path), "-o", f"{work / part}.o"])

        parts = _parts(intel is not None)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_part, parts, parts.values()))
        made = work / "made"
        made.mkdir()
        _link(made, work, compiler, torch_folder / "lib", intel)
        (made / "complete").touch()
        made.rename(target)


def _link(
    made: Path,
    work: Path,
    compiler: list[str],
    torch_lib: Path,
    intel: IntelRuntime | None,
) -> None:
    def link(name: str, parts: _Parts, *libraries: str) -> None:
        objects = [f"{work / part}.o" for part in parts]
        # torch's and Intel's libraries are loaded before these, by path.
        options = ["-shared", f"-Wl,-soname,{name}", "-Wl,-rpath,$ORIGIN", f"-L{made}"]
        options += [f"-L{torch_lib}", *libraries]
        _run([*compiler, *objects, "-o", str(made / name), *options])

    link("libvirtual_xpu.so", _DEVICE, "-ltorch_cpu", "-lc10")
    if intel is None:
        return
    sycl = str(intel.library("libsycl.so.9"))
    shared = ("-lvirtual_xpu", "-lc10", sycl, "-Wl,--allow-shlib-undefined")
    link("libvirtual_xpu_layer.so", _LAYER)
    link("libc10_xpu.so", _SYCL, "-lvirtual_xpu_layer", *shared, "-ldl")
    link("libtorch_xpu.so", _TORCH, "-l:libc10_xpu.so", "-ltorch_cpu", *shared)
    loader = str(made / "libze_loader.so.1")
    options = ["-shared", "-fPIC", "-Wl,-soname,libze_loader.so.1", "-o", loader]
    _run([*compiler, "-x", "c", str(_SOURCES / "level_zero.c"), *options])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if os.strerror(errno.ENOSPC) in done.stderr:
            # `libraries` says what to do.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if "error" in line] or lines
        raise VirtualXPUError(
            f"{command[0]} cannot compile the virtual XPU's libraries "
            f"({' / '.join(errors[:2])[:400]}). It takes a compiler with C++20, such "
            "as g++ 11 or newer; set CXX to one."
        )
