# SPDX-License-Identifier: Apache-2.0
"""Reading config.json and safetensors headers, sound and hostile ones."""

import contextlib
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vllm_xpu_fp8_plugin.doctor import model_files
from vllm_xpu_fp8_plugin.doctor.model_files import ModelError, TensorInfo, read_model

TEMPORARY = tempfile.TemporaryDirectory()


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**fields: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}


def test_a_real_model_is_read(minilm: str) -> None:
    """Catches headers that are not read, and a folder that only its name finds."""
    model = read_model(minilm)
    assert model.config["model_type"] == "bert"
    name = "encoder.layer.0.attention.self.query.weight"
    assert model.tensors[name] == TensorInfo("F32", (384, 384))
    assert read_model(f"{minilm}/config.json").tensors == model.tensors


def test_types_and_shapes_are_those_that_were_saved(tmp_path: Path) -> None:
    """Catches a type whose size is wrong here: its file would be called damaged."""
    types = {
        str(n): torch.zeros(3, 2, dtype=getattr(torch, n))
        for n in ("float8_e4m3fn", "float8_e5m2", "bfloat16", "float64", "int8", "bool")
    }
    save_file(types, tmp_path / "model.safetensors")
    found = model_files.read_header(tmp_path / "model.safetensors")
    assert {t.shape for t in found.values()} == {(3, 2)}
    assert found["float8_e4m3fn"].dtype == "F8_E4M3"


def test_shards_are_read_and_missing_ones_named(tmp_path: Path) -> None:
    """Catches a download that stopped halfway and is taken for whole."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    save_file({"a": torch.zeros(1)}, tmp_path / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = read_model(str(tmp_path))
    assert set(model.tensors) == {"a"}
    assert model.missing_shards == ("model-2.safetensors",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"hidden_size": ' + b"9" * 10_000 + b"}",
    ],
)
def test_a_config_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    """Catches a traceback for a config.json that is truncated or hostile."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_model(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 63),
        struct.pack("<Q", 1 << 20) + b"{}",
        safetensors(b"[" * 100_000),
        safetensors([]),
        safetensors(entry()),
        safetensors(entry(data_offsets=[8, 0]), b"\0" * 8),
        safetensors(entry(shape=[3]), b"\0" * 8),
        safetensors(entry(shape=[-2]), b"\0" * 8),
        safetensors(entry(shape=[1 << 70]), b"\0" * 8),
        safetensors(entry(shape="ab"), b"\0" * 8),
        safetensors(entry(dtype=4), b"\0" * 8),
        safetensors({"x": None}),
        safetensors(entry(shape=[1] * 100_000), b"\0" * 4),
    ],
)
def test_a_header_that_does_not_fit_is_named(content: bytes, tmp_path: Path) -> None:
    """Catches a truncated or hostile file that ends in a traceback, or is believed."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read_model(str(tmp_path))


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Catches gigabytes taken for a config.json of that size."""
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(ModelError, match="at most"):
        read_model(str(tmp_path))


def test_headers_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a thousand shards, each with the largest header that is allowed."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for shard in range(3):
        save_file({f"x{shard}": torch.zeros(1)}, tmp_path / f"{shard}.safetensors")
    assert len(read_model(str(tmp_path)).tensors) == 3
    monkeypatch.setattr(model_files, "_MAX_HEADERS", 150)
    with pytest.raises(ModelError, match="headers of more than 150 bytes"):
        read_model(str(tmp_path))


@pytest.mark.parametrize(
    "weight_map", [{"a": "../../etc/passwd"}, {"a": "/etc/passwd"}, {"a": 1}, [], "x"]
)
def test_an_index_stays_in_its_folder(weight_map: Any, tmp_path: Path) -> None:
    """Catches a file outside of the model's folder that is opened."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match="own folder"):
        read_model(str(tmp_path))


@pytest.mark.parametrize("model", ["/no/such/folder", "./x", "a", "a/b/c", "", ".."])
def test_a_path_that_is_no_model_is_named(model: str) -> None:
    """Catches a typing error in a path that is looked for on a hub."""
    with pytest.raises(ModelError, match=r"folder"):
        read_model(model)


@pytest.mark.parametrize("model", ["owner/name", "owner/na me", "-x/y"])
def test_a_hub_name_that_cannot_be_had_is_named(model: str) -> None:
    """Catches a traceback where the hub cannot be reached; the suite is offline."""
    with pytest.raises(ModelError, match=r"cannot be had from the hub"):
        read_model(model)


@settings(deadline=None)
@given(st.data())
def test_damaged_headers_are_read_or_refused(data: st.DataObject) -> None:
    """Catches any other exception for bytes changed anywhere in a file."""
    content = bytearray(safetensors(entry() | {"__metadata__": {}}, b"\0" * 8))
    places = st.integers(0, len(content) - 1)
    for at in data.draw(st.lists(places, min_size=1, max_size=6)):
        content[at] = data.draw(st.integers(0, 255))
    path = Path(TEMPORARY.name) / "damaged.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(ModelError):
        model_files.read_header(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), _JSON))
def test_any_header_is_read_or_refused(header: dict[str, Any]) -> None:
    """Catches an entry of an unexpected type that ends in a traceback."""
    path = Path(TEMPORARY.name) / "any.safetensors"
    path.write_bytes(safetensors(header, b"\0" * 8))
    with contextlib.suppress(ModelError):
        model_files.read_header(path)
