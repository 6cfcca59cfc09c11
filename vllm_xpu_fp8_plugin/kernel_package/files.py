# SPDX-License-Identifier: Apache-2.0
"""A kernel package to look into: a wheel, or the folder that one was installed to.

Nothing in it is executed or unpacked. A file of it that is damaged or out of all
proportion ends in a `KernelPackageError`.
"""

import contextlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vllm_xpu_fp8_plugin.kernel_package import compiled_attention, installed
from vllm_xpu_fp8_plugin.kernel_package.installed import KernelPackageError

_PACKAGE = "vllm_xpu_kernels"
_INTERFACE = "flash_attn_interface.py"
_FA2 = "_vllm_fa2_C.abi3.so"

# The largest attention library so far has 330 MB, _vllm_fa2_C 140 KB, the Python
# layer 30 KB and the list of members 3 KB.
_MAX_MEMBER = 2 << 30
_MAX_FA2 = 2 << 20
_MAX_TEXT = 256 << 10
_MAX_DIRECTORY = 1 << 20

# Of `cutlass_chunk_prefill_xe2(…, int, int, optional<Tensor const>&, …, double, …)`:
# the optional tensors before the double are the descales. The first is written out,
# the others are back references.
_ENTRY_POINT = re.compile(
    rb"cutlass_chunk_prefill_xe(\d)\w{1,200}?iiRSt8optionalI\w{1,20}?E"
    rb"((?:S[0-9A-Z]{0,2}_){0,9})d"
)
_BACK_REFERENCE = b"_"


class KernelPackage(NamedTuple):
    """What was read from a kernel package.

    Attributes:
        source: The wheel or folder.
        version: From its metadata, for messages; None if there is none.
        interface: Text of its flash_attn_interface.py.
        compiled: Architecture ("xe2", "xe3") -> kernels of its attention library.
        attention_schema: The schema of the op ``varlen_fwd``, None if it has none.
        takes_query_scale: Architecture -> does the library's entry point take a
            query descale. An architecture whose entry point is not recognised is
            left out.
        needs: The SYCL runtime that it is linked to ("libsycl.so.8"), None if none.

    """

    source: Path
    version: str | None
    interface: str
    compiled: dict[str, compiled_attention.CompiledSet]
    attention_schema: str | None
    takes_query_scale: dict[str, bool]
    needs: str | None


def read_package(source: Path) -> KernelPackage:
    """Read a kernel package.

    Args:
        source: A wheel, the package's folder, or the folder that this lies in.

    Raises:
        KernelPackageError: It is none of these, or is damaged.

    """
    try:
        with _open(source) as files:
            return _read(source, files)
    except KernelPackageError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        OSError,
        EOFError,
        ValueError,
        # zipfile's for an encrypted member and for an unknown compression.
        RuntimeError,
    ) as e:
        raise KernelPackageError(
            f"{source} cannot be read ({type(e).__name__}: {e}). Give --kernels a "
            "wheel of vllm-xpu-kernels or the folder that it is installed in."
        ) from None


def _read(source: Path, files: "_Files") -> KernelPackage:
    if f"{_PACKAGE}/{_INTERFACE}" not in files.names:
        raise KernelPackageError(
            f"{source} holds no {_PACKAGE}/{_INTERFACE}: it is not "
            "vllm-xpu-kernels, or a part of it is missing."
        )
    fa2 = files.small(f"{_PACKAGE}/{_FA2}", _MAX_FA2) or b""
    schemas = dict(installed.schemas_in(fa2))
    found = {}
    for arch in compiled_attention.ARCHITECTURES:
        name = f"{_PACKAGE}/{compiled_attention.library_name(arch)}"
        if name in files.names:
            with files.open(name) as library:
                found[arch] = compiled_attention.read(library)
    sycl = re.search(rb"libsycl\.so\.\d+", fa2)
    return KernelPackage(
        source,
        _version(files),
        (files.small(f"{_PACKAGE}/{_INTERFACE}") or b"").decode(),
        found,
        schemas.get("varlen_fwd"),
        {
            # Key and value make two.
            f"xe{m[1].decode()}": m[2].count(_BACK_REFERENCE) + 1 > 2
            for m in _ENTRY_POINT.finditer(fa2)
        },
        sycl[0].decode() if sycl else None,
    )


def _version(files: "_Files") -> str | None:
    for name in files.names:
        if re.fullmatch(_PACKAGE + r"-[^/]*\.dist-info/METADATA", name):
            text = (files.small(name) or b"").decode("utf-8", "replace")
            match = re.search(r"^Version: (\S+)", text, re.MULTILINE)
            return match[1] if match else None
    return None


class _Files:
    """The files of a kernel package, named as in a wheel."""

    names: frozenset[str]

    def size(self, name: str) -> int:
        raise NotImplementedError

    def raw(self, name: str) -> BinaryIO:
        raise NotImplementedError

    def open(self, name: str) -> BinaryIO:
        if self.size(name) > _MAX_MEMBER:
            raise KernelPackageError(
                f"{name} claims {self.size(name)} bytes, which no kernel library has "
                f"(allowed: {_MAX_MEMBER}). Download the package again."
            )
        return self.raw(name)

    def small(self, name: str, limit: int = _MAX_TEXT) -> bytes | None:
        """Return the content of a file, None if there is no such file."""
        if name not in self.names:
            return None
        if self.size(name) > limit:
            raise KernelPackageError(
                f"{name} claims {self.size(name)} bytes (allowed: {limit}). "
                "Download the package again."
            )
        with self.open(name) as file:
            return file.read(limit)


class _Folder(_Files):
    def __init__(self, folder: Path) -> None:
        package = folder if folder.name == _PACKAGE else folder / _PACKAGE
        self.root = package.parent
        infos = self.root.glob(f"{_PACKAGE}-*.dist-info/METADATA")
        self.names = frozenset(
            str(path.relative_to(self.root))
            for path in [*package.glob("*"), *infos]
            if path.is_file()
        )

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def raw(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")


class _Wheel(_Files):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.names = frozenset(archive.namelist())

    def size(self, name: str) -> int:
        return self.archive.getinfo(name).file_size

    def raw(self, name: str) -> BinaryIO:
        info = self.archive.getinfo(name)
        # LZMA's and bzip2's decoders may ask for gigabytes; no wheel uses them.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise KernelPackageError(
                f"{name} is compressed in a way that wheels are not (type "
                f"{info.compress_type})."
            )
        return self.archive.open(info)  # type: ignore[return-value]


@contextlib.contextmanager
def _open(source: Path) -> Iterator[_Files]:
    if source.is_dir():
        yield _Folder(source.resolve())
    elif source.is_file():
        _check_directory(source)
        with zipfile.ZipFile(source) as archive:
            yield _Wheel(archive)
    else:
        raise KernelPackageError(
            f"{source} does not exist. Give --kernels a wheel of vllm-xpu-kernels "
            "(pip download --no-deps vllm-xpu-kernels) or a folder."
        )


def _check_directory(wheel: Path) -> None:
    """Refuse a list of members that would take gigabytes: zipfile reads all of it."""
    with wheel.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
    # As zipfile looks for it: at the very end, else the last one before a comment.
    end = len(tail) - 22
    if tail[end : end + 4] != b"PK\5\6":
        end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < 22:
        raise KernelPackageError(
            f"{wheel} is not a wheel, or is truncated ({size} bytes). Download it "
            "again."
        )
    listing = int.from_bytes(tail[end + 12 : end + 16], "little")
    if listing > _MAX_DIRECTORY or tail[max(0, end - 20) : end][:4] == b"PK\6\7":
        raise KernelPackageError(
            f"{wheel} claims a list of members of {listing} bytes (allowed: "
            f"{_MAX_DIRECTORY}): it is not vllm-xpu-kernels."
        )
