# SPDX-License-Identifier: Apache-2.0
"""Which of the kernel package's ops runs as compiled code, and which in PyTorch."""

import ctypes
import functools
import inspect
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from vllm_xpu_fp8_plugin import reference
from vllm_xpu_fp8_plugin.kernel_package import installed
from vllm_xpu_fp8_plugin.kernel_package.coverage import checked_attention
from vllm_xpu_fp8_plugin.virtual_xpu import host_ops, libraries, not_on_a_cpu

COMPILED, REFERENCE, MISSING = "compiled", "reference", "missing"

# Their tensors are the host's.
_ON_HOST = (
    "_C::get_xpu_view_from_cpu_tensor",
    "_C::xpu_host_register",
    "_C::xpu_host_unregister",
    "_C_cache_ops::swap_blocks_batch",
)

# torch drops an op's registration together with the Library object that made it.
_libraries: list[torch.library.Library] = []


class Op(NamedTuple):
    """How an op of the kernel package runs.

    Attributes:
        runs: `COMPILED`, `REFERENCE` or `MISSING`.
        reason: Why it is not compiled code, else empty.

    """

    runs: str
    reason: str = ""


_ops: dict[str, Op] = {}


def table() -> Mapping[str, Op]:
    """Return ``namespace::name`` of each op -> how it runs; empty until installed."""
    return types.MappingProxyType(_ops)


def install(schemas: Mapping[str, str], sycl: ctypes.CDLL | None, reason: str) -> str:
    """Put the kernel package's ops in place for XPU tensors.

    Args:
        schemas: ``namespace::name`` of each op -> its schema.
        sycl: What takes device images, where the package's libraries can run: they
            are then imported.
        reason: Why they cannot, where it is None.

    Returns:
        Why no library runs, or "".

    Raises:
        VirtualXPUError: As `libraries.load` says.

    """
    names = installed.library_names(installed.package_dir())
    unknown: dict[str, str] = {}
    if sycl:
        reason, unknown = libraries.load(names, sycl)
    compiled = not reason
    if not compiled:
        _define(schemas, names)
    functions = {**reference.implementations(), **host_ops.implementations()}
    for name, declared in schemas.items():
        if compiled and not _defined(name):
            # A schema in the file that the library does not register.
            continue
        function = functions.get(name)
        if function:
            _register(name, declared, function)
        why = reason or unknown.get(_library(name)) or not_on_a_cpu.reason(name)
        if not why and _has_kernel(name):
            _ops[name] = Op(COMPILED)
            if library := not_on_a_cpu.guard(name):
                _libraries.append(library)
            continue
        why = why or "the kernel package registers no kernel for an XPU"
        _ops[name] = Op(REFERENCE if function else MISSING, why)
        if not function:
            _register(name, declared, _missing(name, why))
        _use_reference(name)
    return reason or "; ".join(unknown.values())


def _library(name: str) -> str:
    """Return the library that registers an op."""
    return name.split("::")[0].removesuffix("_cache_ops")


def substitute(name: str, function: Callable[..., Any], by: str) -> None:
    """Have an op run another function from now on, on CPU tensors over its memory.

    Args:
        name: ``namespace::name`` of the op.
        function: Takes the op's arguments by name.
        by: Prefix of the namespace that the function's own op gets.

    """
    declared = installed.op_schemas(installed.package_dir())[name]
    _register(name, declared, function, by)
    torch.ops.virtual_xpu.use_reference(name, f"{by}{name}")


def _define(schemas: Mapping[str, str], modules: list[str]) -> None:
    """Define the ops by their schemas, as the libraries would."""
    for name, schema in schemas.items():
        library = torch.library.Library(name.split("::")[0], "FRAGMENT")
        library.define(schema)
        _libraries.append(library)
    for module in modules:
        placeholder = types.ModuleType(f"vllm_xpu_kernels.{module}")
        placeholder.__doc__ = "Stands in for a compiled module on the virtual XPU."
        sys.modules[placeholder.__name__] = placeholder


def _defined(name: str) -> bool:
    return bool(torch._C._dispatch_has_kernel(name)) or _schema(name) is not None


def _schema(name: str) -> Any:
    namespace, short_name = name.split("::")
    packet = getattr(getattr(torch.ops, namespace), short_name, None)
    return None if packet is None else packet.default._schema


def _has_kernel(name: str) -> bool:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return any(has(name, key) for key in ("XPU", "CPU", "CompositeImplicitAutograd"))


def _register(
    name: str, declared: str, function: Callable[..., Any], by: str = REFERENCE
) -> None:
    """Make `function` the op ``<by><namespace>::<name>``, on CPU tensors."""
    namespace, short_name = name.split("::")
    if name == "_vllm_fa2_C::varlen_fwd":
        function = checked_attention(function)
    library = torch.library.Library(f"{by}{namespace}", "FRAGMENT")
    library.define(declared)
    arguments = _schema(f"{by}{name}").arguments
    call = _by_name(name, function, [a.name for a in arguments])
    library.impl(short_name, call, "CompositeExplicitAutograd")
    _libraries.append(library)


def _use_reference(name: str) -> None:
    """Have the op `name` run its reference, on CPU tensors over the same memory."""
    namespace, short_name = name.split("::")
    takes_tensors = any("Tensor" in str(a.type) for a in _schema(name).arguments)
    if takes_tensors and name not in _ON_HOST:
        torch.ops.virtual_xpu.use_reference(name, f"reference{name}")
        return
    key = "CPU" if takes_tensors else "CompositeExplicitAutograd"
    library = torch.library.Library(namespace, "IMPL")
    call = getattr(getattr(torch.ops, f"reference{namespace}"), short_name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl(short_name, call, key, allow_override=True)
    _libraries.append(library)


def _by_name(
    name: str, function: Callable[..., Any], names: list[str]
) -> Callable[..., Any]:
    """Return what torch calls: by position, without trailing defaults."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [] if takes_all else [n for n in names if n not in parameters]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs.update(zip(names, args, strict=False))
        for argument in unknown:
            value = kwargs.pop(argument, None)
            # None, False and 0 ask an op for nothing.
            if isinstance(value, torch.Tensor) or value:
                raise NotImplementedError(
                    f"The virtual XPU does not implement {name} with "
                    f"{argument}={value!r} (vllm-xpu-kernels "
                    f"{installed.package_version()})."
                )
        return function(**kwargs)

    return call


def _missing(name: str, why: str) -> Callable[..., Any]:
    def raise_missing(**kwargs: Any) -> Any:
        raise NotImplementedError(
            f"The virtual XPU cannot run {name} (vllm-xpu-kernels "
            f"{installed.package_version()}): {why}, and it has no PyTorch version "
            "of it."
        )

    return raise_missing
