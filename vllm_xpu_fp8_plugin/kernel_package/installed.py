# SPDX-License-Identifier: Apache-2.0
"""What the installed kernel package (vllm-xpu-kernels) holds, read from its files.

Nothing here loads a library of it: they need an Intel GPU's runtime.
"""

import importlib.util
import mmap
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Library -> namespace of the ops that it registers with torch.
_LIBRARIES = ("_C", "_moe_C", "_xpu_C", "_vllm_fa2_C")

# _C registers its cache ops last, in a namespace of their own, from this op on
# (csrc/torch_bindings.cpp).
_CACHE_NAMESPACE, _FIRST_CACHE_OP = "_C_cache_ops", "reshape_and_cache"

# A TORCH_LIBRARY schema as the compiler leaves it: a NUL-terminated string.
_ARROW = b"->"
_TYPE = rb"(?:Tensor|int|float|bool|str|ScalarType)\b"
_SCHEMA = re.compile(
    rb"(\w+)\((?: ?" + _TYPE + rb".*)?\) ?-> ?(?:" + _TYPE + rb"|\().*"
)


class KernelPackageError(RuntimeError):
    """The kernel package is missing, or not what it should be."""


def package_dir() -> Path:
    """Return the folder of the installed kernel package.

    Raises:
        KernelPackageError: It is not installed, or has none of its libraries.

    """
    spec = importlib.util.find_spec("vllm_xpu_kernels")
    if spec is None or not spec.submodule_search_locations:
        raise KernelPackageError(
            "vllm-xpu-kernels is not installed. Install it: "
            "pip install --no-deps vllm-xpu-kernels==0.1.14.1"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not _library(folder, "_vllm_fa2_C"):
        raise KernelPackageError(
            f"vllm-xpu-kernels in {folder} has no library _vllm_fa2_C: the "
            "installation is broken. Reinstall it: pip install --no-deps "
            "--force-reinstall vllm-xpu-kernels==0.1.14.1"
        )
    return folder


def package_version() -> str:
    """Return the version of the installed kernel package, for messages."""
    try:
        return version("vllm-xpu-kernels")
    except PackageNotFoundError:
        return "unknown"


def library_names(folder: Path) -> list[str]:
    """Return the extension modules with ops that the package in `folder` has."""
    return [name for name in _LIBRARIES if _library(folder, name)]


def op_schemas(folder: Path) -> dict[str, str]:
    """Return the schema of every op, as the libraries in `folder` declare it.

    Returns:
        ``namespace::name`` -> schema, as `torch.library.Library.define` takes it.

    Raises:
        KernelPackageError: A library holds no schema.

    """
    schemas: dict[str, str] = {}
    for library in library_names(folder):
        path = _library(folder, library)
        assert path is not None
        namespace = library
        found = _schemas_in(path)
        if not found:
            raise KernelPackageError(
                f"{path} holds no op schema: the file is damaged or of a layout that "
                "this plugin does not know. Reinstall vllm-xpu-kernels."
            )
        for name, schema in found:
            if library == "_C" and name == _FIRST_CACHE_OP:
                namespace = _CACHE_NAMESPACE
            schemas[f"{namespace}::{name}"] = schema
    return schemas


def _library(folder: Path, name: str) -> Path | None:
    return next(iter(folder.glob(f"{name}.*so")), None)


def _schemas_in(path: Path) -> list[tuple[str, str]]:
    """Return (op name, schema) for each schema string in a library, in its order."""
    if path.stat().st_size == 0:
        return []
    with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
        return schemas_in(m)


def schemas_in(library: bytes | mmap.mmap) -> list[tuple[str, str]]:
    """Return (op name, schema) for each schema string in a library, in its order."""
    found = []
    end = 0
    while (arrow := library.find(_ARROW, end)) >= 0:
        start = library.rfind(b"\0", end, arrow) + 1
        end = library.find(b"\0", arrow)
        if end < 0:
            break
        # Schemas run to some hundred characters, symbol names to many thousand.
        text = library[start:end] if end - start < 4096 else b""
        schema = b" ".join(text.split())
        if match := _SCHEMA.fullmatch(schema):
            found.append((match[1].decode(), schema.decode("ascii", "replace")))
    return found
