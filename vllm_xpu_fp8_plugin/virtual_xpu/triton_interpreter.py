# SPDX-License-Identifier: Apache-2.0
"""vLLM's Triton kernels on the virtual XPU, by Triton's own interpreter."""

import dataclasses
import functools
import importlib.util
import os
import sys
import types
from typing import Any

import torch

from vllm_xpu_fp8_plugin.virtual_xpu import triton_kernels


def use_interpreter() -> None:
    """Have Triton interpret its kernels, on the memory of XPU tensors.

    The interpreter copies tensors of a GPU to the host and back; those of a virtual
    XPU are there already.
    """
    if importlib.util.find_spec("triton") is None:
        return
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.backends import Backend, backends
    from triton.runtime import interpreter

    # vLLM takes Triton for usable where one driver is active
    # (vllm/triton_utils/importing.py). Empty visible devices would do as well, but
    # Ray has no GPU then, as which vLLM asks it for XPUs.
    backends["virtual_xpu"] = Backend(compiler=None, driver=_NoDriver)

    _interpret_what_is_compiled(interpreter.InterpretedFunction)
    executor = interpreter.GridExecutor

    @functools.wraps(executor._init_args_hst)
    def init_args_hst(
        self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        return [_to_host(a) for a in args], {k: _to_host(v) for k, v in kwargs.items()}

    executor._init_args_hst = init_args_hst
    executor._restore_args_dev = lambda *args: None
    _take_any_mask(interpreter)
    _spare_work(interpreter)
    _run_at_once(interpreter.InterpretedFunction)


class _NoDriver:
    """Stands for the driver of a device whose kernels are interpreted."""

    def __init__(self) -> None:
        raise RuntimeError(
            "Triton has no driver for a virtual XPU: its kernels are interpreted."
        )

    @staticmethod
    def is_active() -> bool:
        return True


def _to_host(value: Any) -> Any:
    """Return a value with XPU tensors as tensors of the host, on the same memory."""
    if isinstance(value, tuple):
        return tuple(map(_to_host, value))
    if isinstance(value, torch.Tensor) and value.device.type == "xpu":
        return torch.ops.virtual_xpu.host(value)
    return value


def _interpret_what_is_compiled(interpreted: Any) -> None:
    """Turn the functions of Triton's own library into interpreted ones.

    They became what they are when Triton was imported, which vLLM does before it
    asks for a platform (vllm/env_override.py, by way of Inductor).
    """
    from triton.runtime.jit import JITFunction

    # By identity: one's hash is that of its source and of all that it calls.
    made: dict[int, Any] = {}
    for name, module in list(sys.modules.items()):
        if module is None or not name.startswith("triton."):
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, JITFunction):
                function = made.setdefault(id(value), interpreted(value.fn))
                setattr(module, attribute, function)


def _take_any_mask(interpreter: Any) -> None:
    """Have loads and stores take a mask that was computed, as Triton's compiler does.

    The inverse of a bit is an integer to the interpreter, which its loads and stores
    refuse ("mask has unsupported dtype"); vLLM's structured output has such a mask.
    """
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle

    def as_bool(mask: Any) -> Any:
        return handle(mask.data.astype(bool), mask.dtype)

    load, store = builder.create_masked_load, builder.create_masked_store

    # What follows differs by release: a policy, or a modifier and a policy.
    def masked_load(self: Any, ptrs: Any, mask: Any, *more: Any) -> Any:
        return load(self, ptrs, as_bool(mask), *more)

    def masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *more: Any) -> Any:
        return store(self, ptrs, value, as_bool(mask), *more)

    builder.create_masked_load = functools.wraps(load)(masked_load)
    builder.create_masked_store = functools.wraps(store)(masked_store)


def _spare_work(interpreter: Any) -> None:
    """Have the interpreter leave out what does nothing here; it is thrice as fast.

    For each call of a kernel and of each function in it, it puts its own functions in
    the place of `triton.language`'s, and takes them back after a kernel: here, where
    every kernel is interpreted, once is enough. Integers are computed twice, for
    an overflow check that asserts in debug mode only.
    """
    patch_language = interpreter._patch_lang

    class Stays:
        def restore(self) -> None:
            pass

    @functools.cache
    def patch_once() -> Stays:
        import triton.language as tl

        # It looks for these among the globals of a kernel.
        kernel = types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
        patch_language(kernel)
        return Stays()

    interpreter._patch_lang = lambda fn: patch_once()
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _run_at_once(interpreted: Any) -> None:
    """Have the kernels of `triton_kernels` run by its functions."""
    interpret = interpreted.run

    @functools.wraps(interpret)
    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        function = triton_kernels.find(self.fn, tuple(self.arg_names))
        if function is not None and not warmup and isinstance(grid, tuple):
            # The rest are options of Triton's, such as num_warps.
            named = {k: _to_host(v) for k, v in kwargs.items() if k in self.arg_names}
            if function(grid, *map(_to_host, args), **named) is not NotImplemented:
                return None
        return interpret(self, *args, grid=grid, warmup=warmup, **kwargs)

    interpreted.run = run
