# SPDX-License-Identifier: Apache-2.0
"""Which attention kernels a library holds, read from the names in it.

An unstripped library names the source file of each kernel
(``chunk_policy_head64_b16_ffftf``, ``paged_decode_kernel_template_q8_h64_p64_fft``),
and up to 0.1.14 also exports each prefill kernel as a template instance
(``chunk_policy_head64Lb0ELb0ELb1ELb0ELb0E``). Both are read.
"""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

# Letters: paged, causal, sink, local, lse.
_PREFILL = re.compile(rb"chunk_policy_head(\d{1,4})(?:_b16)?_([tf]{5})(?![tf])")
# Template arguments: paged, causal, local, sink, lse and, in Xe3's, an FP8 query.
_PREFILL_SYMBOL = re.compile(
    rb"chunk_policy_head(\d{1,4})(?:_b16)?((?:Lb[01]E){5})(?!Lb1E)"
)
# Letters: causal, local, sink.
_DECODE = re.compile(
    rb"paged_decode_kernel_template_q(\d{1,3})_h(\d{1,4})_p(\d{1,4})_([tf]{3})(?![tf])"
)
_LONGEST = 80
_CHUNK = 8 << 20

ARCHITECTURES = ("xe2", "xe3")


class AttentionKernel(NamedTuple):
    """What a prefill kernel is compiled for; encoder attention is not paged."""

    head_size: int
    paged: bool
    causal: bool
    sink: bool
    local: bool
    lse: bool


class DecodeKernel(NamedTuple):
    """What a decode kernel is compiled for.

    `group` is 8 or 16: how many query heads of a key/value head it takes at once.
    """

    group: int
    head_size: int
    page_size: int
    causal: bool
    local: bool
    sink: bool


class CompiledSet(NamedTuple):
    """The kernels of an attention library."""

    prefill: frozenset[AttentionKernel]
    decode: frozenset[DecodeKernel]


def library_name(arch: str) -> str:
    """Return the file name of the attention library for an architecture."""
    return f"libattn_kernels_xe_{arch[2:]}.so"


def attention_kernels(folder: Path, arch: str = "xe2") -> frozenset[AttentionKernel]:
    """Return the prefill and encoder kernels of the library in `folder`."""
    with (folder / library_name(arch)).open("rb") as library:
        return read(library).prefill


def read(library: BinaryIO) -> CompiledSet:
    """Return the kernels that a library names, reading it once, in chunks."""
    prefill: set[AttentionKernel] = set()
    decode: set[DecodeKernel] = set()
    data = b""
    while chunk := library.read(_CHUNK):
        data += chunk
        # A name that the chunk may have cut off is left for the next one.
        _collect(data, len(data) - _LONGEST, prefill, decode)
        data = data[-_LONGEST:]
    _collect(data, len(data), prefill, decode)
    return CompiledSet(frozenset(prefill), frozenset(decode))


def _collect(
    data: bytes, end: int, prefill: set[AttentionKernel], decode: set[DecodeKernel]
) -> None:
    """Add the kernels whose names start before `end`."""
    for match in _PREFILL.finditer(data):
        if match.start() < end:
            flags = (letter == ord("t") for letter in match[2])
            prefill.add(AttentionKernel(int(match[1]), *flags))
    for match in _PREFILL_SYMBOL.finditer(data):
        if match.start() < end:
            paged, causal, local, sink, lse = (d == ord("1") for d in match[2][2::4])
            prefill.add(AttentionKernel(int(match[1]), paged, causal, sink, local, lse))
    for match in _DECODE.finditer(data):
        if match.start() < end:
            group, head_size, page_size = (int(match[i]) for i in (1, 2, 3))
            flags = (letter == ord("t") for letter in match[4])
            decode.add(DecodeKernel(group, head_size, page_size, *flags))


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
    """Return the prefill kernel that a call takes, None if it is not compiled.

    A head size goes to the next larger one that there are kernels for, and a causal
    window is a window without keys to the right (csrc/xpu/attn/xe_2/fmha_xe2.cpp).
    """
    sizes = sorted({k.head_size for k in kernels if k.head_size >= head_size})
    if not sizes:
        return None
    wanted = AttentionKernel(sizes[0], paged, causal and not local, sink, local, lse)
    return wanted if wanted in kernels else None


def find_decode(
    kernels: frozenset[DecodeKernel],
    head_size: int,
    *,
    heads_per_kv_head: int,
    page_size: int,
    local: bool,
    sink: bool,
) -> DecodeKernel | None:
    """Return the kernel that a decode call takes, None if it is not compiled.

    Decode is never causal (csrc/flash_attn/flash_api.cpp). A page size that is a
    multiple of 64 goes to the kernel for 64.
    """
    sizes = sorted({k.head_size for k in kernels if k.head_size >= head_size})
    if not sizes:
        return None
    group = 8 if heads_per_kv_head <= 8 else 16
    page = 64 if page_size % 64 == 0 else page_size
    wanted = DecodeKernel(group, sizes[0], page, False, local, sink)
    return wanted if wanted in kernels else None
