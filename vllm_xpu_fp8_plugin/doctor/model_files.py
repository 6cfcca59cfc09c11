# SPDX-License-Identifier: Apache-2.0
"""A model's config.json and the headers of its safetensors files.

No weight is read. Files are bounded in size before they are read, since they may
come from anywhere.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

_MAX_JSON = 16 << 20
_MAX_SHARDS = 1000
# All of a model; those of the largest published ones have some 30 MB.
_MAX_HEADERS = 128 << 20

# Bytes a value of safetensors' types that may be in a model.
_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"


class ModelError(ValueError):
    """A model that cannot be read: a wrong path, or a file that is not what it says."""


class TensorInfo(NamedTuple):
    """A tensor's entry in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


class ModelFiles(NamedTuple):
    """What a model's files say.

    Attributes:
        name: The model as it was given: a folder or a name on a hub.
        config: Content of config.json.
        tensors: Name -> type and shape; empty if there are no safetensors files.
        missing_shards: Files that the index names and that are not there.

    """

    name: str
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    missing_shards: tuple[str, ...]


def read_model(model: str) -> ModelFiles:
    """Read a model's config and headers.

    Args:
        model: A folder, its config.json, or a name on a hub ("owner/name"), of which
            config.json and headers are fetched.

    Raises:
        ModelError: There is no such model, or a file of it is not what it should be.

    """
    path = Path(model).expanduser()
    if path.name == _CONFIG:
        path = path.parent
    if path.is_dir():
        return _read_folder(model, path)
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ModelError(
            f"{model} is neither a folder nor a name on a hub. Give --model the "
            "folder that holds config.json, or owner/name."
        )
    return _read_hub(model)


def _read_folder(model: str, folder: Path) -> ModelFiles:
    config = read_json(folder / _CONFIG)
    tensors: dict[str, TensorInfo] = {}
    missing = []
    headers = 0
    for shard in _shards(folder):
        path = folder / shard
        if not path.is_file():
            missing.append(shard)
            continue
        tensors |= read_header(path)
        headers += _header_size(path)
        if headers > _MAX_HEADERS:
            raise ModelError(
                f"{folder} has safetensors headers of more than {_MAX_HEADERS} bytes."
            )
    return ModelFiles(model, config, tensors, tuple(missing))


def _shards(folder: Path) -> list[str]:
    if (folder / _WEIGHTS).is_file():
        return [_WEIGHTS]
    if not (folder / _INDEX).is_file():
        return sorted(p.name for p in folder.glob("*.safetensors"))[:_MAX_SHARDS]
    names = read_json(folder / _INDEX).get("weight_map")
    values = set(names.values()) if isinstance(names, dict) else {None}
    shards = {s for s in values if isinstance(s, str) and Path(s).name == s != ".."}
    if shards != values or len(shards) > _MAX_SHARDS:
        raise ModelError(
            f"{folder / _INDEX} does not map tensors to files of its own folder. "
            "Download the model again."
        )
    return sorted(shards)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ModelError: The file is missing, too large, or holds something else.

    """
    try:
        size = path.stat().st_size
        if not path.is_file() or size > _MAX_JSON:
            raise ModelError(
                f"{path} is no file of at most {_MAX_JSON} bytes (it has {size})."
            )
        content = path.read_bytes()
    except OSError as e:
        raise ModelError(
            f"{path} cannot be read: {e.strerror}. Give --model a folder that holds "
            f"{_CONFIG}."
        ) from None
    return _parse(content, str(path))


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file from its header.

    The format is 8 bytes of length (little-endian), as many bytes of JSON, and the
    data, which the JSON's ``data_offsets`` point into.

    Raises:
        ModelError: The file is not of that format, or is truncated.

    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_JSON):
                raise ModelError(
                    f"{path} claims a header of {length} bytes, and has {size} in "
                    f"all (allowed: {_MAX_JSON}): it is truncated, or no safetensors "
                    "file. Download the model again."
                )
            header = _parse(file.read(length), str(path))
    except OSError as e:
        raise ModelError(f"{path} cannot be read: {e.strerror}.") from None
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[name] = _tensor(path, name, entry, size - 8 - length)
    return tensors


def _header_size(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _tensor(path: Path, name: str, entry: object, data: int) -> TensorInfo:
    """Return a header's entry, checked against the bytes that the file has."""
    if isinstance(entry, Mapping):
        dtype, shape = entry.get("dtype"), entry.get("shape")
        offsets = entry.get("data_offsets")
        if (
            isinstance(dtype, str)
            and _are_sizes(shape)
            and _are_sizes(offsets)
            and len(offsets) == 2
        ):
            length = offsets[1] - offsets[0]
            known = dtype not in _BYTES or math.prod(shape) * _BYTES[dtype] == length
            if length >= 0 and offsets[1] <= data and known:
                return TensorInfo(dtype, tuple(shape))
    raise ModelError(
        f"{path}: the header's entry for {name[:80]!r} does not fit the file: it is "
        "truncated or damaged. Download the model again."
    )


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    """Return whether `value` is a list of a few sizes."""
    return (
        isinstance(value, list)
        and len(value) <= 16
        and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
    )


def _parse(content: bytes, source: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    # ValueError for what is not JSON or UTF-8, and for a number of too many digits.
    except (ValueError, RecursionError) as e:
        reason = "nested without end" if isinstance(e, RecursionError) else e
        raise ModelError(f"{source} holds no valid JSON: {reason}.") from None
    if not isinstance(parsed, dict):
        raise ModelError(
            f"{source} holds a JSON {type(parsed).__name__}, and not an object."
        )
    return parsed


def _read_hub(model: str) -> ModelFiles:
    """Fetch config.json and the safetensors headers of a model on a hub."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            NotASafetensorsRepoError,
            OfflineModeIsEnabled,
            SafetensorsParsingError,
        )
    except ImportError:
        raise ModelError(
            f"{model} is not a folder, and huggingface_hub, which would fetch it, is "
            "not installed. Give --model a folder."
        ) from None
    try:
        config = read_json(Path(huggingface_hub.hf_hub_download(model, _CONFIG)))
        try:
            metadata = huggingface_hub.get_safetensors_metadata(model)
            found = {
                name: TensorInfo(tensor.dtype, tuple(tensor.shape))
                for file in metadata.files_metadata.values()
                for name, tensor in file.tensors.items()
                if isinstance(tensor.dtype, str) and _are_sizes(tensor.shape)
            }
        # Only config.json is needed.
        except (
            NotASafetensorsRepoError,
            SafetensorsParsingError,
            OfflineModeIsEnabled,
        ):
            found = {}
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as e:
        raise ModelError(
            f"{model} is not a folder, and cannot be had from the hub: "
            f"{str(e).strip().splitlines()[0]}"
        ) from None
    return ModelFiles(model, config, found, ())
