# SPDX-License-Identifier: Apache-2.0
"""Refusals of the kernels' C++."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


def require(ok: bool, message: str, *values: object) -> None:
    """Stand in for ``TORCH_CHECK``.

    Args:
        ok: What must hold.
        message: As `str.format` takes it; formatted only when needed, since ops are
            called some hundred times a step.
        values: For `message`.

    Raises:
        RuntimeError: `ok` is false.

    """
    if not ok:
        raise RuntimeError(message.format(*values))


def require_pages(op: str, pages: Tensor, num_pages: int) -> None:
    """Refuse a table that names a page which there is not, such as -1.

    The kernels look at none and read whatever is there.

    Raises:
        RuntimeError: A page is below 0 or beyond the last one.

    """
    if not len(pages):
        return
    lowest, highest = pages.aminmax()
    if lowest < 0 or highest >= num_pages:
        wrong = pages[(pages < 0) | (pages >= num_pages)]
        raise RuntimeError(
            f"{op}: block_table names page {int(wrong[0])}, there are {num_pages}"
        )


def require_dtype(
    op: str, name: str, tensor: Tensor, allowed: tuple[torch.dtype, ...]
) -> None:
    """Refuse a tensor whose type the kernel is not compiled for.

    Raises:
        RuntimeError: The type is not one of `allowed`.

    """
    if tensor.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise RuntimeError(f"{op}: {name} must be {names}, got {tensor.dtype}")


def require_all(op: str, dtype: torch.dtype, **tensors: Tensor | None) -> None:
    """Refuse tensors, named by keyword, of a type other than `dtype`. None passes.

    Raises:
        RuntimeError: One is of another type.

    """
    for name, tensor in tensors.items():
        if tensor is not None:
            require_dtype(op, name, tensor, (dtype,))


def require_packed(op: str, **tensors: Tensor | None) -> None:
    """Refuse tensors, named by keyword, with gaps between elements. None passes.

    Some kernels check this. The others do not look at strides, and would read and
    write other elements than they should; PyTorch must not hide that.

    Raises:
        RuntimeError: One is not contiguous.

    """
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_contiguous():
            raise RuntimeError(
                f"{op}: {name} must be contiguous, as the kernel takes it to be; got "
                f"{_layout(tensor)}"
            )


def as_rows(op: str, name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` [..., K] as a view [M, K].

    Raises:
        RuntimeError: Its rows are not contiguous, or not evenly spaced: the kernels
            step from row to row by one stride.

    """
    if tensor.dim() < 2 or (tensor.stride(-1) != 1 and tensor.shape[-1] != 1):
        raise RuntimeError(
            f"{op}: {name} must have 2 dimensions or more and be contiguous in the "
            f"last, got {_layout(tensor)}"
        )
    if tensor.dim() == 2:
        return tensor
    try:
        return tensor.view(-1, tensor.shape[-1])
    except RuntimeError:
        raise RuntimeError(
            f"{op}: {name} must have evenly spaced rows, got {_layout(tensor)}"
        ) from None


def _layout(tensor: Tensor) -> str:
    return f"shape {list(tensor.shape)}, strides {list(tensor.stride())}"
