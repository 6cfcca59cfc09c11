# SPDX-License-Identifier: Apache-2.0
"""Device images on their way to SYCL."""

import ctypes
import struct

import numpy as np
import pytest

from tests.virtual_xpu import assembly
from vllm_xpu_fp8_plugin import virtual_xpu
from vllm_xpu_fp8_plugin.virtual_xpu import build, intel

virtual_xpu.enable()

# SYCL keeps what it is given for the process's whole life.
_KEPT: list[ctypes.Array[ctypes.c_char]] = []


def spirv_of(text: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return a module whose kernel, "main", calls an assembly without operands."""
    words: list[bytes] = []

    def keep(module: np.ndarray) -> bytes:
        words.append(module.tobytes())
        raise StopIteration

    monkeypatch.setattr(assembly, "rewritten", keep)
    with pytest.raises(StopIteration):
        assembly.run(text, "", [])
    return words[0]


def image_of(spirv: bytes) -> bytes:
    """Return what Intel's offline compiler makes of it: an archive with an ELF file."""
    elf = bytearray(64)
    elf[:4] = b"\x7fELF"
    struct.pack_into("<Q", elf, 40, 64)  # e_shoff
    struct.pack_into("<H", elf, 60, 1)  # e_shnum
    section = struct.pack(
        "<IIQQQQIIQQ", 0, 0xFF000009, 0, 0, 128, len(spirv), 0, 0, 4, 0
    )
    file = bytes(elf) + section + spirv
    header = f"{'generic_ir':<48}{len(file):<10}`\n".encode()
    return b"!<arch>\n" + header + file


def address(data: bytes) -> int:
    _KEPT.append(ctypes.create_string_buffer(data, len(data)))
    return ctypes.addressof(_KEPT[-1])


def test_an_instruction_that_is_not_known_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches a kernel that is left out without a word of why."""
    image = image_of(spirv_of("{\nfrobnicate (M1, 16) A(0,0)<1>\n}", monkeypatch))
    begin = address(image)
    empty, name = address(b"\0"), address(b"main\0")
    entry = struct.pack("<QHHIQQQQQ", 0, 1, 8, 0, 0, name, 0, 0, 0)
    first = address(entry)
    fields = (empty, empty, empty, begin, begin + len(image), first, first + len(entry))
    described = struct.pack("<HBBxxxx9Q", 3, 4, 0, *fields, 0, 0)
    library = struct.pack("<HHxxxxQQQ", 1, 1, address(described), 0, 0)
    runtime, _ = intel.find()
    assert runtime
    sycl = ctypes.CDLL(str(build.libraries(runtime) / "libc10_xpu.so"))
    sycl.virtual_xpu_rewrite(ctypes.c_bool(True))
    try:
        getattr(sycl, "__sycl_register_lib")(ctypes.c_void_p(address(library)))
    finally:
        sycl.virtual_xpu_rewrite(ctypes.c_bool(False))
    told = capfd.readouterr().err
    assert "cannot run 1 of a library's 1 kernels: it has no meaning" in told
    assert "frobnicate" in told
