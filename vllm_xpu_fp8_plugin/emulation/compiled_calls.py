# SPDX-License-Identifier: Apache-2.0
"""Which attention calls the installed kernel package holds a compiled kernel for."""

import functools

from vllm_xpu_fp8_plugin import compiled, envs, kernels


def require_compiled(
    head_size: int,
    *,
    paged: bool,
    causal: bool,
    local: bool,
    sink: bool,
    lse: bool,
) -> None:
    """Refuse a prefill or encoder call as the real library does.

    Does nothing unless ``VLLM_XPU_FP8_EMULATE_COVERAGE`` is on. The kernel
    package's Python layer recognises the error by "not compiled", and falls back
    to PyTorch. Decode calls (one query a sequence, paged) are not checked.

    Raises:
        RuntimeError: No kernel is compiled for the call.

    """
    if envs.EMULATE_COVERAGE.get() == envs.OFF:
        return
    # As the library prints them: a causal window is a window with no right side.
    causal = causal and not local
    axes = {"paged": paged, "causal": causal, "local": local, "sink": sink, "lse": lse}
    if compiled.find(_kernels(), head_size, **axes) is None:
        row = ",".join(["true" if axis else "false" for axis in axes.values()])
        raise RuntimeError(
            "Chunk prefill kernel tuple not compiled for this configuration.\n"
            "Add this line to your chunk_prefill config file:\n"
            f"  {head_size},{row}"
        )


@functools.cache
def _kernels() -> frozenset[compiled.AttentionKernel]:
    return compiled.attention_kernels(kernels.package_dir())
