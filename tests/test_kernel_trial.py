# SPDX-License-Identifier: Apache-2.0
"""vllm_xpu_fp8_plugin.kernel_trial; tests/test_attention.py has encoder layers."""

from typing import Any

import pytest
import torch
from vllm.v1.attention.backends import flash_attn

from vllm_xpu_fp8_plugin import kernel_trial


def computes(kernel: Any, head_size: int, head_size_v: int) -> bool:
    return kernel_trial.computes_values_of(
        kernel,
        num_heads=4,
        num_kv_heads=2,
        head_size=head_size,
        head_size_v=head_size_v,
        device="xpu",
        dtype=torch.bfloat16,
    )


def padded(**kwargs: Any) -> Any:
    """Compute values of another size with the installed kernel, as it should."""
    values, out = kwargs["v"], kwargs.pop("out")
    wide = torch.nn.functional.pad(
        values, (0, kwargs["k"].shape[-1] - values.shape[-1])
    )
    result = flash_attn.flash_attn_varlen_func(**{**kwargs, "v": wide})
    return out.copy_(result[..., : values.shape[-1]])


def other_pages(**kwargs: Any) -> Any:
    return padded(**{**kwargs, "block_table": kwargs["block_table"].flip(0)})


def not_causal(**kwargs: Any) -> Any:
    return padded(**{**kwargs, "causal": False})


def unwritten(**kwargs: Any) -> None:
    """Leave the result as it was."""


def as_large_as_keys(**kwargs: Any) -> Any:
    """Take each slot's values for as many as a key has."""
    size, page = kwargs["k"].shape[-1], kwargs["v"].shape[1]
    cache = kwargs["v"]._base
    wide = cache.flatten()[size:][: page * size].view(1, page, 1, size)
    wide = wide.expand(cache.shape[0], page, cache.shape[2], size)
    return padded(**{**kwargs, "v": wide[..., : kwargs["v"].shape[-1]]})


def test_a_kernel_that_computes_it_is_used() -> None:
    """Catches a trial that nothing passes: a wrong layout, scale or mask of its own."""
    assert computes(flash_attn.flash_attn_varlen_func, 64, 64)
    assert computes(padded, 64, 32)


@pytest.mark.parametrize(
    "kernel",
    [
        flash_attn.flash_attn_varlen_func,
        other_pages,
        not_causal,
        unwritten,
        as_large_as_keys,
    ],
)
def test_a_kernel_that_does_not_is_seen(kernel: Any) -> None:
    """Catches wrong tokens of a DiffKV model that is served after all."""
    assert not computes(kernel, 64, 32)
