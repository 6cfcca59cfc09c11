# SPDX-License-Identifier: Apache-2.0
"""Which attention calls the installed kernel package holds a compiled kernel for."""

import functools
from collections.abc import Callable
from typing import Any

from vllm_xpu_fp8_plugin import envs
from vllm_xpu_fp8_plugin.kernel_package import compiled_attention, installed


def checked_attention(attention: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``varlen_fwd`` that refuses what the real library has no kernel for.

    It does so where ``VLLM_XPU_FP8_EMULATE_COVERAGE`` is on. Decode calls (one query
    a sequence, paged) are not checked.
    """

    @functools.wraps(attention)
    def checked(**kwargs: Any) -> Any:
        paged = kwargs.get("block_table") is not None
        if envs.EMULATE_COVERAGE.get() == envs.ON and (
            not paged or kwargs["max_seqlen_q"] > 1
        ):
            window = (kwargs["window_size_left"], kwargs["window_size_right"])
            _require_compiled(
                kwargs["q"].shape[-1],
                paged=paged,
                causal=kwargs["is_causal"],
                local=window != (-1, -1),
                sink=kwargs.get("softmax_sink") is not None,
                lse=kwargs.get("return_softmax", False),
            )
        return attention(**kwargs)

    return checked


def _require_compiled(
    head_size: int, *, paged: bool, causal: bool, local: bool, sink: bool, lse: bool
) -> None:
    """Refuse a prefill or encoder call as the real library does.

    The kernel package's Python layer recognises the error by "not compiled", and
    falls back to PyTorch.

    Raises:
        RuntimeError: No kernel is compiled for the call.

    """
    # As the library prints them: a causal window is a window with no right side.
    causal = causal and not local
    axes = {"paged": paged, "causal": causal, "local": local, "sink": sink, "lse": lse}
    if compiled_attention.find(_kernels(), head_size, **axes) is None:
        row = ",".join(["true" if axis else "false" for axis in axes.values()])
        raise RuntimeError(
            "Chunk prefill kernel tuple not compiled for this configuration.\n"
            "Add this line to your chunk_prefill config file:\n"
            f"  {head_size},{row}"
        )


@functools.cache
def _kernels() -> frozenset[compiled_attention.AttentionKernel]:
    return compiled_attention.attention_kernels(installed.package_dir())
