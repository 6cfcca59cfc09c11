# SPDX-License-Identifier: Apache-2.0
"""The assemblies that the installed attention library holds."""

import functools
import mmap
import struct
from collections.abc import Iterator

from vllm_xpu_fp8_plugin.kernel_package import installed


@functools.cache
def shipped() -> dict[str, tuple[str, str]]:
    """Return the assemblies of the installed attention library: text -> constraints."""
    found: dict[str, tuple[str, str]] = {}
    with (installed.package_dir() / "libattn_kernels_xe_2.so").open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        at = data.find(b"\x03\x02\x23\x07")
        while at >= 0:
            for words in _instructions(data, at + 20):
                if words[0] & 0xFFFF == 5610:
                    raw = struct.pack(f"<{len(words) - 5}I", *words[5:])
                    text, _, rest = raw.partition(b"\0")
                    constraints = rest.lstrip(b"\0").partition(b"\0")[0]
                    found[text.decode()] = (text.decode(), constraints.decode())
            at = data.find(b"\x03\x02\x23\x07", at + 4)
    return found


def _instructions(data: mmap.mmap, at: int) -> Iterator[tuple[int, ...]]:
    """Walk the head of a module, up to its first function."""
    while at + 4 <= len(data):
        (first,) = struct.unpack_from("<I", data, at)
        if not first >> 16 or first & 0xFFFF == 54 or first & 0xFFFF > 7000:
            return
        yield struct.unpack_from(f"<{first >> 16}I", data, at)
        at += (first >> 16) * 4


def assembly(*parts: str) -> tuple[str, str]:
    """Return the one shipped assembly that has all of these parts."""
    texts = [t for t in shipped() if all(part in t for part in parts)]
    assert len(texts) == 1, f"{len(texts)} assemblies with {parts}"
    return shipped()[texts[0]]
