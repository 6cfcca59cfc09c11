# SPDX-License-Identifier: Apache-2.0
"""Where the fused kernels put the scales of groups."""

from torch import Tensor

from vllm_xpu_fp8_plugin.reference.refusals import require


def require_group(name: str, group_size: int, input: Tensor) -> None:
    """Refuse groups that the kernels, a power of two of lanes to each, get wrong.

    Raises:
        RuntimeError: `group_size` does not divide a row, or is of another form.

    """
    lanes, rest = divmod(group_size * input.itemsize, 16)
    require(
        group_size > 0 and input.shape[-1] % group_size == 0,
        "{}: hidden_size {} must be divisible by group_size {}",
        name,
        input.shape[-1],
        group_size,
    )
    require(
        not rest and 0 < lanes <= 32 and not lanes & (lanes - 1),
        "{}: group_size must be a power of two of 16 to 512 bytes, got {} values of {}",
        name,
        group_size,
        input.dtype,
    )


def write_scales(scale: Tensor, values: Tensor, transposed: bool) -> None:
    """Write ``values [M, groups, 1]`` to the memory that `scale` begins.

    The kernels go by the order that they are told, not by the strides of `scale`.

    Raises:
        RuntimeError: `scale` holds fewer values.

    """
    m, groups, _ = values.shape
    require(
        scale.numel() >= m * groups,
        "{} scales for {} rows of {} groups",
        scale.numel(),
        m,
        groups,
    )
    strides = (1, m) if transposed else (groups, 1)
    scale.as_strided((m, groups), strides).copy_(values.squeeze(-1))
