# SPDX-License-Identifier: Apache-2.0
"""Defines the kernel package's ops for torch and binds their implementations.

Schemas come from the installed package, so none is kept here. An implementation
is one function, found by the op's name and called by argument name.
"""

import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from vllm_xpu_fp8_plugin import kernels

_SUBJECTS = (
    "act_quant",
    "activations",
    "attention",
    "cache",
    "cache_copy",
    "fp8_gemm",
    "fp8_quant",
    "merge",
    "mla_cache",
    "mrope",
    "norm_quant",
    "norms",
    "qk_norm",
    "rotary",
    "sampling",
)
_implementations: dict[str, Callable[..., Any]] = {}
# torch drops an op's registration together with the Library object that made it.
_libraries: dict[str, torch.library.Library] = {}
_installed: dict[str, bool] = {}


def op(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the implementation of the op ``namespace::name``.

    Its parameters are arguments of the op's schema, by name; it need not take all
    of them. It gets CPU tensors, writes in place what the op writes in place, and
    returns what the op returns.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _implementations[name] = function
        return function

    return register


def coverage() -> dict[str, bool]:
    """Return every op of the installed kernel package -> is it implemented."""
    install()
    return dict(_installed)


def install() -> None:
    """Put the kernel package's ops in place for torch, on CPU tensors. Idempotent.

    Does not import vLLM. Afterwards ``vllm_xpu_kernels`` imports, and every op that
    its libraries declare exists; one without an implementation raises when called.

    Raises:
        kernels.KernelPackageError: The kernel package is missing or broken, or its
            real libraries are loaded in this process.

    """
    if _installed:
        return
    folder = kernels.package_dir()
    names = kernels.library_names(folder)
    if loaded := [n for n in names if f"vllm_xpu_kernels.{n}" in sys.modules]:
        raise kernels.KernelPackageError(
            "The software XPU cannot take the place of kernels that are loaded "
            f"already ({', '.join(loaded)}). Run it in an environment whose torch is "
            "not a build for Intel GPUs."
        )
    for subject in _SUBJECTS:
        importlib.import_module(f"vllm_xpu_fp8_plugin.emulation.{subject}")
    schemas = kernels.op_schemas(folder)
    for name, schema in schemas.items():
        namespace, short_name = name.split("::")
        library = _libraries.setdefault(
            namespace, torch.library.Library(namespace, "FRAGMENT")
        )
        library.define(schema)
        function = _implementations.get(name) or _unimplemented(name)
        library.impl(short_name, *_bind(name, function))
    for module in names:
        placeholder = types.ModuleType(f"vllm_xpu_kernels.{module}")
        placeholder.__doc__ = "Stands in for a compiled module on the software XPU."
        sys.modules[placeholder.__name__] = placeholder
    _installed.update({name: name in _implementations for name in schemas})


def _bind(name: str, function: Callable[..., Any]) -> tuple[Callable[..., Any], str]:
    """Return what torch calls for the op, and the dispatch key to register it for.

    torch passes arguments by position and leaves out trailing defaults.
    """
    schema = getattr(getattr(torch.ops, name.split("::")[0]), name.split("::")[1])
    arguments = schema.default._schema.arguments
    names = [a.name for a in arguments]
    takes_tensors = any("Tensor" in str(a.type) for a in arguments)
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
                    f"The software XPU does not implement {name} with "
                    f"{argument}={value!r} (vllm-xpu-kernels "
                    f"{kernels.package_version()})."
                )
        return function(**kwargs)

    return call, "CPU" if takes_tensors else "CompositeExplicitAutograd"


def _unimplemented(name: str) -> Callable[..., Any]:
    def raise_unimplemented(**kwargs: Any) -> Any:
        raise NotImplementedError(
            f"The software XPU does not implement {name} (vllm-xpu-kernels "
            f"{kernels.package_version()}). To add it, write a function with the op's "
            f'argument names, decorate it with @op("{name}") and put it into a module '
            "of vllm_xpu_fp8_plugin/emulation/."
        )

    return raise_unimplemented
