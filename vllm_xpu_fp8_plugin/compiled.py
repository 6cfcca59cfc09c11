# SPDX-License-Identifier: Apache-2.0
"""Which attention kernels a library holds, read from the names in it."""

import re
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(rb"chunk_policy_head(\d+)(?:_b16)?_([tf]{5})")
_LONGEST = 64
_CHUNK = 8 << 20


class AttentionKernel(NamedTuple):
    """What a kernel is compiled for."""

    head_size: int
    paged: bool
    causal: bool
    sink: bool
    local: bool
    lse: bool


def attention_kernels(folder: Path, arch: str = "xe2") -> frozenset[AttentionKernel]:
    """Return the kernels of the attention library in `folder`."""
    path = folder / f"libattn_kernels_xe_{arch[2:]}.so"
    found: set[AttentionKernel] = set()
    tail = b""
    with path.open("rb") as f:
        while chunk := f.read(_CHUNK):
            for match in _NAME.finditer(tail + chunk):
                flags = (letter == ord("t") for letter in match[2])
                found.add(AttentionKernel(int(match[1]), *flags))
            tail = chunk[-_LONGEST:]
    return frozenset(found)


def find(
    kernels: frozenset[AttentionKernel],
    head_size: int,
    *,
    paged: bool,
    causal: bool,
    local: bool,
    sink: bool,
    lse: bool,
) -> AttentionKernel | None:
    """Return the kernel that a call takes, None if it is not compiled."""
    sizes = sorted({k.head_size for k in kernels if k.head_size >= head_size})
    if not sizes:
        return None
    wanted = AttentionKernel(sizes[0], paged, causal, sink, local, lse)
    return wanted if wanted in kernels else None
