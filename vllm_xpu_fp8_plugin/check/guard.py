# SPDX-License-Identifier: Apache-2.0
"""Checks a worker's own FP8 layers once its weights are loaded.

``VLLM_XPU_FP8_CHECK=warn`` logs a layer whose product is wrong, ``refuse`` ends the
start. A layer of each distinct shape is run with a few random rows, and each op of the
kernel package that it calls is compared with float64: quantisation, and of the product
some of the columns. Then a page of a cache like its own is written, and read.
"""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.logger import init_logger

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.check import making
from vllm_xpu_fp8_plugin.check.cache_calls import cache_calls
from vllm_xpu_fp8_plugin.check.call import Call, complete
from vllm_xpu_fp8_plugin.check.expected import compare
from vllm_xpu_fp8_plugin.check.explain import explained
from vllm_xpu_fp8_plugin.check.registry import specs
from vllm_xpu_fp8_plugin.check.replay import judge
from vllm_xpu_fp8_plugin.loading import after_loading

logger = init_logger("vllm.xpu_fp8_plugin.check")

_ROWS = 4
# Columns of a product that are compared: a weight is large, and float64 slow.
_COLUMNS = 64
_WITHOUT_CACHE = ("encoder", "encoder_only")


class Wrong(NamedTuple):
    """A layer that computes something else.

    Attributes:
        layer: Its name in the model.
        words: What is wrong.

    """

    layer: str
    words: str


def install() -> None:
    """Have vLLM's loader check a model once its weights are loaded. Idempotent."""
    try:
        after_loading(guard)
    except NotImplementedError as e:
        logger.warning("%s: nothing is checked, since %s.", envs.CHECK.name, e)


def guard(model: torch.nn.Module) -> None:
    """Check a model's layers, and warn or refuse.

    Raises:
        RuntimeError: A layer is wrong, and `envs.CHECK` says refuse.

    """
    start = time.perf_counter()
    dtype = torch.get_default_dtype()
    # vLLM loads with the device and the model's type as defaults; what is compared
    # is on the CPU, and computed in float64 from float32.
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"), torch.inference_mode():
            checked, wrong = _layers(model)
            caches, wrong_caches = _caches(model)
    except Exception as e:
        # Whether this can judge a model must not decide whether it is served.
        logger.warning(
            "%s: this model cannot be checked (%s: %s) and is served unchecked. Please "
            "report it, with the model's name.",
            envs.CHECK.name,
            type(e).__name__,
            e,
        )
        return
    finally:
        torch.set_default_dtype(dtype)
    seconds = time.perf_counter() - start
    wrong += wrong_caches
    if not wrong:
        logger.info(
            "%s: %d products of FP8 layers and %d KV caches, one of each shape, are "
            "as float64 gives them (%.2f s).",
            envs.CHECK.name,
            checked,
            caches,
            seconds,
        )
        return
    said = "; ".join(f"{w.layer}: {w.words}" for w in wrong)
    message = (
        f"{envs.CHECK.name}: the kernels give wrong results for {said}. "
        "`vllm-xpu-fp8 check --model MODEL` says more and writes a repro. Use another "
        "vllm-xpu-kernels, or a model that is not quantised."
    )
    if envs.CHECK.get() == envs.REFUSE:
        raise RuntimeError(message)
    logger.warning("%s", message)


class _Calls(TorchDispatchMode):
    """Keeps calls of ops that can be checked, with what they returned."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[tuple[Call, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Make a call and keep it."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in specs():
            declared = [a.name for a in func._schema.arguments]
            named = {**dict(zip(declared, args, strict=False)), **(kwargs or {})}
            self.made.append((Call(name, named), result))
        return result


def _layers(model: torch.nn.Module) -> tuple[int, list[Wrong]]:
    """Return how many products were compared, and the layers that are wrong."""
    from vllm.model_executor.layers.linear import LinearBase

    seen: set[Any] = set()
    wrong, count = [], 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(module, LinearBase) or not isinstance(weight, Tensor):
            continue
        key = (type(module.quant_method), weight.shape, weight.dtype)
        if not weight.dtype.is_floating_point or weight.itemsize > 1 or key in seen:
            continue
        seen.add(key)
        making.seed(len(seen))
        x = making.normal(_ROWS, module.input_size_per_partition, dtype=_dtype(module))
        with _Calls() as calls:
            module.quant_method.apply(module, x.to(weight.device), bias=None)
        for call, result in calls.made:
            count += 1
            words = _difference(call, result)
            if words:
                wrong.append(Wrong(name, f"{call.op} {words}"))
    return count, wrong


def _dtype(module: Any) -> torch.dtype:
    dtype = getattr(module, "orig_dtype", None) or getattr(module, "params_dtype", None)
    is_half = isinstance(dtype, torch.dtype) and dtype.itemsize == 2
    return dtype if is_half and dtype is not None else torch.bfloat16


def _difference(call: Call, result: Any) -> str:
    """Return what is wrong with what a call did, or ""."""
    columns = None
    if "B" in call.arguments and call.arguments["B"].dim() == 2:
        width = call.arguments["B"].shape[1]
        columns = torch.linspace(0, width - 1, min(_COLUMNS, width)).long().unique()
    narrowed = {n: _narrow(n, v, call, columns) for n, v in call.arguments.items()}
    host = Call(call.op, narrowed)
    spec = specs()[call.op]
    wanted = spec.oracle(**host.arguments)
    for name, expected in wanted.items():
        got = result if name == "return" else call.arguments.get(name)
        if not isinstance(got, Tensor):
            continue
        got = got.cpu()
        if columns is not None and name in ("return", "out"):
            got = got[..., columns]
        wrong = compare(got, expected, got).wrong
        if bool(wrong.any()):
            return explained(host, spec, name, got, wrong, wanted)
    return ""


def _narrow(name: str, value: Any, call: Call, columns: Tensor | None) -> Any:
    """Return an argument on the CPU, of a product with these columns alone."""
    if not isinstance(value, Tensor):
        return value
    if columns is None or name not in ("B", "B_scale_", "bias_", "out"):
        return value.cpu()
    width = call.arguments["B"].shape[1]
    if name == "B_scale_" and value.numel() not in (1, width):
        value = value.repeat_interleave(width // value.shape[-1], -1)
    if value.dim() and value.shape[-1] == width:
        # Bytes: not every device selects columns of FP8.
        index = columns.to(value.device)
        taken = value.view(torch.uint8) if value.itemsize == 1 else value
        return taken.index_select(-1, index).cpu().view(value.dtype)
    return value.cpu()


def _caches(model: torch.nn.Module) -> tuple[int, list[Wrong]]:
    """Write and read a cache like each layer's."""
    device = next(model.parameters()).device
    seen: set[Any] = set()
    wrong: list[Wrong] = []
    for name, module in model.named_modules():
        kind = str(getattr(module, "kv_cache_dtype", ""))
        heads = getattr(module, "num_kv_heads", None)
        size = getattr(module, "head_size", None)
        if not hasattr(module, "get_kv_cache_spec") or not heads or not size:
            continue
        key = (kind, module.num_heads, heads, size)
        # An encoder's attention has no cache.
        attends = getattr(module, "attn_type", None)
        if key in seen or getattr(attends, "value", attends) in _WITHOUT_CACHE:
            continue
        seen.add(key)
        dtype = getattr(module, "dtype", None) or torch.bfloat16
        calls = cache_calls(kind, module.num_heads, heads, size, dtype)
        for call in calls:
            made = complete(call)
            if made is None:
                continue
            verdict = judge(made, specs()[call.op], device)
            if verdict.faults:
                wrong.append(Wrong(name, f"{call.op} {verdict.faults[0].words}"))
    return len(seen), wrong
