# SPDX-License-Identifier: Apache-2.0
"""Calls that compiled ops take on a GPU, and would compute wrongly on a CPU."""

from collections.abc import Callable
from typing import Any

import torch

# Features that one work-group of the convolution before a GDN layer takes.
_TILE = 256


def _convolution(
    *,
    num_k_heads: int,
    num_v_heads: int,
    head_k_dim: int,
    head_v_dim: int,
    num_prefills: int,
    num_spec_decodes: int,
    **_: Any,
) -> str:
    """Return why a call of a GDN op is refused, "" if it is not."""
    if num_spec_decodes:
        return "speculative decoding, of which no test of the kernel package runs here"
    features = 2 * head_k_dim + head_v_dim * num_v_heads // num_k_heads
    if num_prefills and features < _TILE:
        # Work-items without a feature return before a barrier that the others may
        # reach; the code that a CPU's compiler makes of that leaves `z` unwritten.
        return (
            f"a prefill of {features} features a key head (2 * head_k_dim + head_v_dim "
            f"* num_v_heads / num_k_heads): a CPU needs {_TILE} or more"
        )
    return ""


# Name of an op -> why it refuses a call with these arguments.
_LIMITS: dict[str, Callable[..., str]] = {
    "_xpu_C::gdn_attention": _convolution,
    "_xpu_C::causal_conv1d_non_spec": _convolution,
}


def guard(name: str) -> torch.library.Library | None:
    """Have a compiled op refuse what a CPU cannot run of it.

    Args:
        name: ``namespace::name`` of the op.

    Returns:
        What has to be kept as long as the op, or None: it has no limits.

    """
    why_not = _LIMITS.get(name)
    if why_not is None:
        return None
    namespace, short_name = name.split("::")
    op = getattr(getattr(torch.ops, namespace), short_name).default
    names = [a.name for a in op._schema.arguments]
    below = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)

    def checked(keys: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        if why := why_not(**given):
            raise NotImplementedError(f"The virtual XPU cannot run {name} with {why}.")
        return op.redispatch(keys & below, *args, **kwargs)

    # The one key that each call passes, also without gradients.
    library = torch.library.Library(namespace, "IMPL")
    library.impl(short_name, checked, "BackendSelect", with_keyset=True)
    return library
