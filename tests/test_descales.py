# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.descales."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from vllm.model_executor.model_loader import base_loader
from vllm.v1.attention.backends import flash_attn, flash_attn_diffkv

from tests.test_kernel_trial import padded
from vllm_xpu_fp8_plugin import descales

E4M3 = torch.float8_e4m3fn


@pytest.mark.parametrize("cache", [torch.bfloat16, E4M3, torch.float8_e5m2])
@pytest.mark.parametrize("query", [torch.bfloat16, E4M3])
def test_descale_accompanies_a_quantised_tensor_only(
    query: torch.dtype, cache: torch.dtype
) -> None:
    """Catches DiffKV's query descale, which the kernel package refuses."""
    taken: dict[str, Any] = {}
    guarded = descales.accompanied(lambda **kwargs: taken.update(kwargs))
    one = torch.ones(())
    q = torch.ones(2, 1, 8).to(query)
    k, v = torch.ones(2, 2, 1, 8).to(cache)
    guarded(q=q, k=k, v=v, q_descale=one, k_descale=one, v_descale=one, causal=True)
    quantised = {"q": query.itemsize == 1, "k": cache.itemsize == 1}
    quantised["v"] = quantised["k"]
    assert {x for x in "qkv" if f"{x}_descale" in taken} == {
        x for x, is_fp8 in quantised.items() if is_fp8
    }
    assert taken["causal"] is True and taken["q"] is q


def test_diffkv_runs_the_guarded_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a guard that DiffKV's own name for the kernel goes past, and a second."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        flash_attn_diffkv,
        "flash_attn_varlen_func",
        lambda **kwargs: calls.append(kwargs),
        raising=False,
    )
    descales._guard_diffkv()
    guarded = flash_attn_diffkv.flash_attn_varlen_func
    descales._guard_diffkv()
    assert flash_attn_diffkv.flash_attn_varlen_func is guarded
    guarded(q=torch.ones(1), k=torch.ones(1), v=torch.ones(1), q_descale=torch.ones(1))
    assert "q_descale" not in calls[0]


def layer(scale: torch.Tensor, flash: bool = True) -> torch.nn.Module:
    module, attention = torch.nn.Module(), torch.nn.Module()
    kind = flash_attn.FlashAttentionImpl if flash else object
    attention.impl = kind.__new__(kind)
    attention._k_scale, attention._v_scale = torch.ones(()), scale
    module.attn = attention
    return module


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what vLLM calls once a model is loaded, of which the checks are left."""
    name = "process_weights_after_loading"
    monkeypatch.setattr(base_loader, name, lambda model, *rest: None)
    descales._check_models()
    loaded: Callable[..., None] = base_loader.process_weights_after_loading
    return loaded


def test_models_are_checked_once(load: Callable[..., None]) -> None:
    """Catches a check for each time that the plugin is loaded."""
    descales._check_models()
    assert base_loader.process_weights_after_loading is load


def test_scales_by_head_are_refused_when_the_model_loads(
    load: Callable[..., None],
) -> None:
    """Catches an assertion of the kernel package at the first request (#532)."""
    for scale in (torch.ones(()), torch.ones(1)):
        load(layer(scale), None)
    with pytest.raises(NotImplementedError, match=r"attn\.v_scale has 4 values"):
        load(layer(torch.ones(4)), None)
    # Another backend may well take them.
    load(layer(torch.ones(4), flash=False), None)


def diffkv_layer(head_size: int, head_size_v: int) -> torch.nn.Module:
    module, attention = torch.nn.Module(), torch.nn.Module()
    kind = flash_attn_diffkv.FlashAttentionDiffKVImpl
    attention.impl = kind.__new__(kind)
    attention.impl.num_heads, attention.impl.num_kv_heads = 4, 2
    attention.head_size, attention.head_size_v = head_size, head_size_v
    attention.dtype = torch.bfloat16
    module.attn = attention
    return module


def test_values_of_another_size_are_refused_when_the_model_loads(
    load: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches DiffKV that runs once its descales are gone, with wrong tokens."""
    load(diffkv_layer(64, 64), None)
    with pytest.raises(NotImplementedError, match="keys of 192 and values of 128"):
        load(diffkv_layer(192, 128), None)
    # A kernel that computes them may run.
    monkeypatch.setattr(flash_attn_diffkv, "flash_attn_varlen_func", padded)
    load(diffkv_layer(192, 128), None)


def test_what_cannot_be_changed_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a model that is not served for the sake of a guard."""
    lines: list[str] = []
    monkeypatch.setattr(descales.logger, "warning", lambda s, *a: lines.append(s % a))
    monkeypatch.delattr(base_loader, "process_weights_after_loading")
    descales.install.cache_clear()
    descales.install()
    assert len(lines) == 1 and "Refuse what the kernel cannot take" in lines[0]
    descales.install.cache_clear()
