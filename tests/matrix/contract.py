# SPDX-License-Identifier: Apache-2.0
"""What must hold between the plugin, a vLLM release and a kernel release.

Each check is a function that raises where its statement does not hold. They run in
one process, in their order, on the virtual XPU, without pytest and without a model.
"""

import importlib
import inspect
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from types import SimpleNamespace
from typing import Any

import torch

from tests.matrix import upstream_imports

CHECKS: list[Callable[[], None]] = []

# What Python makes for each class.
_OF_EACH_CLASS = {
    *dir(type("C", (), {})),
    "__abstractmethods__",
    "__annotations__",
    "__firstlineno__",
    "__orig_bases__",
    "__parameters__",
    "__static_attributes__",
    "_abc_impl",
} - {"__init__"}

_OVERRIDDEN = {"__init__", "_forward_encoder_attention"}


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Add a function to the suite."""
    CHECKS.append(function)
    return function


@check
def releases_are_the_ones_asked_for() -> None:
    """Hold the process to the releases that its name says."""
    import vllm
    import vllm_xpu_kernels

    for name, module in (("vllm", vllm), ("vllm-xpu-kernels", vllm_xpu_kernels)):
        folder = os.environ[f"MATRIX_{module.__name__.upper()}"]
        assert folder.endswith(f"{name}-{version(name)}"), version(name)
        assert module.__path__[0] == f"{folder}/{module.__name__}"


@check
def entry_point_gives_the_platform() -> None:
    """Resolve our entry point to an XPU platform of this package."""
    (point,) = entry_points(group="vllm.platform_plugins", name="xpu_fp8")
    path = point.load()()
    assert path, "register() returned None"

    from vllm.platforms import current_platform
    from vllm.platforms.xpu import XPUPlatform

    from vllm_xpu_fp8_plugin.platform import XPUFp8Platform

    cls = type(current_platform)
    assert f"{cls.__module__}.{cls.__qualname__}" == path
    assert issubclass(cls, XPUFp8Platform)
    assert issubclass(cls, XPUPlatform)
    assert current_platform.is_xpu()


@check
def what_a_model_needs_imports() -> None:
    """Import the modules of vLLM that an encoder is loaded with."""
    for module in upstream_imports.MODULES:
        importlib.import_module(module)


@check
def flash_attn_becomes_our_backend_and_keeps_its_name() -> None:
    """Hand out our backend for FLASH_ATTN, and no other for Triton."""
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    from vllm.v1.attention.selector import AttentionSelectorConfig

    from vllm_xpu_fp8_plugin.attention import (
        XPUFp8AttentionBackend,
        XPUFp8AttentionImpl,
    )

    config = AttentionSelectorConfig(
        head_size=64, dtype=torch.bfloat16, kv_cache_dtype="auto", block_size=64
    )
    flash_attn = AttentionBackendEnum.FLASH_ATTN
    for selected in (None, flash_attn):
        path = current_platform.get_attn_backend_cls(selected, config)
        assert resolve_obj_by_qualname(path) is XPUFp8AttentionBackend
    assert XPUFp8AttentionBackend.get_impl_cls() is XPUFp8AttentionImpl
    assert AttentionBackendEnum[XPUFp8AttentionBackend.get_name()] is flash_attn
    triton = AttentionBackendEnum.TRITON_ATTN
    path = current_platform.get_attn_backend_cls(triton, config)
    assert path == triton.get_path()


@check
def exactly_two_attributes_are_overridden() -> None:
    """Override nothing that decoder layers use but `__init__`."""
    from vllm_xpu_fp8_plugin.attention import (
        XPUFp8AttentionBackend,
        XPUFp8AttentionImpl,
    )

    assert set(vars(XPUFp8AttentionImpl)) - _OF_EACH_CLASS == _OVERRIDDEN
    assert set(vars(XPUFp8AttentionBackend)) - _OF_EACH_CLASS == {"get_impl_cls"}


@check
def decoder_path_is_upstreams() -> None:
    """Leave every other attribute of the class upstream's, by identity."""
    from vllm_xpu_fp8_plugin.attention import XPUFp8AttentionImpl, upstream

    names = set(dir(upstream.FlashAttentionImpl)) - _OF_EACH_CLASS - _OVERRIDDEN
    assert "forward" in names
    for name in names:
        ours = inspect.getattr_static(XPUFp8AttentionImpl, name)
        assert ours is inspect.getattr_static(upstream.FlashAttentionImpl, name), name


@check
def decoder_layers_hold_what_upstreams_hold() -> None:
    """Give a decoder layer of ours the attributes of one of upstream's."""
    from vllm_xpu_fp8_plugin.attention import XPUFp8AttentionImpl, upstream

    for dtype in ("auto", "fp8"):
        ours, theirs = (
            vars(cls(4, 32, 32**-0.5, 4, None, None, dtype))
            for cls in (XPUFp8AttentionImpl, upstream.FlashAttentionImpl)
        )
        assert ours == theirs


@check
def signatures_are_those_the_plugin_builds_on() -> None:
    """Find methods and a kernel wrapper that take what the plugin passes."""
    from vllm.platforms.xpu import XPUPlatform

    from vllm_xpu_fp8_plugin.attention import XPUFp8AttentionImpl, upstream

    theirs = upstream.FlashAttentionImpl._forward_encoder_attention
    ours = XPUFp8AttentionImpl._forward_encoder_attention
    assert list(inspect.signature(ours).parameters) == list(
        inspect.signature(theirs).parameters
    )
    with _recorded_calls() as calls:
        _encoder_attention()
    kernel = inspect.signature(upstream.flash_attn_varlen_func)
    kernel.bind(**calls[0])
    # It may take any others, and ignore them.
    assert not set(calls[0]) - set(kernel.parameters)
    inspect.signature(XPUPlatform.get_attn_backend_cls).bind(None, None, num_heads=8)
    inspect.signature(XPUPlatform.check_and_update_config).bind(None)


@check
def encoder_call_has_no_descale() -> None:
    """Pass no descale in encoder attention, though the old defect were there."""
    from vllm_xpu_fp8_plugin.attention import upstream

    defect = "flash_attn_supports_quant_query_input"
    before = getattr(upstream, defect)
    setattr(upstream, defect, lambda: True)
    try:
        for dtype in ("auto", "fp8"):
            with _recorded_calls() as calls:
                _encoder_attention(kv_cache_dtype=dtype)
            (call,) = calls
            assert not [name for name in call if "descale" in name]
            assert call["causal"] is False
            assert "block_table" not in call
    finally:
        setattr(upstream, defect, before)


@check
def encoder_attention_is_right_with_an_fp8_kv_cache() -> None:
    """Agree with torch's attention, and write all of the output."""
    for dtype in ("auto", "fp8"):
        output, expected = _encoder_attention(kv_cache_dtype=dtype)
        assert (output.float() - expected).abs().max() < 0.02
    from vllm_xpu_fp8_plugin.attention import upstream

    try:
        _encoder_attention(upstream.FlashAttentionImpl, kv_cache_dtype="fp8")
    except NotImplementedError:
        return  # vLLM #55048, which the plugin removes
    raise AssertionError("vLLM itself runs an encoder with an fp8 KV cache")


@check
def what_the_kernel_ignores_is_refused() -> None:
    """Refuse an encoder layer with ALiBi or a soft cap."""
    for ignored in ({"alibi_slopes": [0.5] * 4}, {"logits_soft_cap": 30.0}):
        try:
            _encoder_attention(**ignored)
        except NotImplementedError as e:
            assert "TRITON_ATTN" in str(e)
        else:
            raise AssertionError(f"loaded with {ignored}")


def _encoder_attention(
    cls: Any = None, **arguments: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run an encoder layer on two sequences.

    Returns:
        Its output and the right one, [12, 4, 64].

    """
    from vllm.v1.attention.backend import AttentionType

    from vllm_xpu_fp8_plugin.attention import XPUFp8AttentionImpl

    given = {"alibi_slopes": None, "sliding_window": None, "kv_cache_dtype": "auto"}
    impl = (cls or XPUFp8AttentionImpl)(
        4, 64, 0.125, 4, attn_type=AttentionType.ENCODER_ONLY, **{**given, **arguments}
    )
    lengths = [7, 5]
    metadata = SimpleNamespace(
        query_start_loc=torch.tensor([0, 7, 12], dtype=torch.int32, device="xpu"),
        max_query_len=7,
        num_actual_tokens=12,
    )
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 12, 4, 64, generator=generator).bfloat16()
    query, key, value = values.to("xpu")
    output = torch.full_like(query, math.nan)
    one = torch.ones(1, device="xpu")
    scales = SimpleNamespace(_q_scale=one, _k_scale=one, _v_scale=one)
    cache = torch.empty(0, device="xpu")
    impl.forward(scales, query, key, value, cache, metadata, output)
    expected = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(
                *(x.float().transpose(0, 1) for x in sequence)
            ).transpose(0, 1)
            for sequence in zip(*(x.split(lengths) for x in values), strict=True)
        ]
    )
    return output.cpu(), expected


@contextmanager
def _recorded_calls() -> Iterator[list[dict[str, Any]]]:
    """Record the arguments of the kernel wrapper's calls, and pass them on."""
    from vllm_xpu_fp8_plugin.attention import upstream

    calls: list[dict[str, Any]] = []
    kernel = upstream.flash_attn_varlen_func

    def recording(**kwargs: Any) -> Any:
        calls.append(kwargs)
        return kernel(**kwargs)

    upstream.flash_attn_varlen_func = recording
    try:
        yield calls
    finally:
        upstream.flash_attn_varlen_func = kernel
