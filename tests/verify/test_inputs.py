# SPDX-License-Identifier: Apache-2.0
"""Reading the data of `verify`."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_xpu_fp8_plugin.verify import inputs

GOOD = [
    {"query": "q", "documents": ["a", "b"], "relevance": [1, 0.5]},
    {"query": "q", "documents": ["a", "b"]},
    {"text": "t"},
    {"prompt": "p"},
]

BAD = [
    ("{", "not JSON"),
    ("[1]", "got a list"),
    ("{}", "got no key"),
    ('{"text": ""}', "'text' must be a text that is not empty"),
    ('{"text": 3}', "'text' must be a text"),
    ('{"text": "a", "prompt": "b"}', "exactly one of these"),
    ('{"text": "a", "label": 1}', "unknown key label"),
    ('{"query": "q"}', "'documents' is missing"),
    ('{"query": "q", "documents": ["a"]}', "a ranking needs two"),
    ('{"query": "q", "documents": ["a", " "]}', "'documents' must be"),
    ('{"query": "q", "documents": ["a", 1]}', "'documents' is missing or not"),
    ('{"query": "q", "documents": "ab"}', "'documents' is missing or not"),
    ('{"query": "q", "documents": ["a", "b"], "relevance": [1]}', "1 relevance gr"),
    ('{"query": "q", "documents": ["a", "b"], "relevance": [1, true]}', "'relevance'"),
    ('{"query": "q", "documents": ["a", "b"], "relevance": [1, -1]}', "'relevance'"),
    ('{"query": "q", "documents": ["a", "b"], "relevance": [1, NaN]}', "NaN is not"),
    ('{"text": "\\ud800"}', "surrogate"),
    ('{"text": ' + "[" * 100_000, "nested"),
]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_good_lines_are_read_in_order(tmp_path: Path) -> None:
    """Catches a kind of line that is dropped."""
    file = write(tmp_path / "d.jsonl", *map(json.dumps, GOOD), "")
    data, bad = inputs.read(file)
    assert [r.relevance for r in data.rankings] == [[1, 0.5], None]
    assert (data.texts, data.prompts, bad) == (["t"], ["p"], [])


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_bad_line_is_named_and_nothing_runs(
    line: str, reason: str, tmp_path: Path
) -> None:
    """Catches bad lines that pass, crash, or are reported without their number."""
    file = write(tmp_path / "d.jsonl", '{"text": "t"}', line, '{"text": "u"}')
    with pytest.raises(inputs.BadDataError) as e:
        inputs.read(file)
    assert f"d.jsonl:2: {reason}" in str(e.value) or reason in str(e.value)
    assert "d.jsonl:2: " in str(e.value)
    assert "--skip-bad" in str(e.value)
    data, bad = inputs.read(file, skip_bad=True)
    assert data.texts == ["t", "u"]
    assert len(bad) == 1


def test_every_bad_line_is_reported(tmp_path: Path) -> None:
    """Catches a report that stops at the first."""
    file = write(tmp_path / "d.jsonl", *(line for line, _ in BAD))
    with pytest.raises(inputs.BadDataError) as e:
        inputs.read(file)
    assert len(str(e.value).splitlines()) == len(BAD) + 1


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe{}\n"])
def test_file_without_data_is_refused(content: bytes, tmp_path: Path) -> None:
    """Catches an engine that is started for nothing."""
    file = tmp_path / "d.jsonl"
    file.write_bytes(content)
    for skip_bad in (False, True):
        with pytest.raises(inputs.BadDataError):
            inputs.read(file, skip_bad=skip_bad)
    with pytest.raises(inputs.BadDataError, match="cannot read"):
        inputs.read(tmp_path / "none.jsonl")


@given(st.binary(max_size=60))
def test_no_bytes_end_in_a_traceback(content: bytes) -> None:
    """Catches an exception of another type."""
    data = inputs.Data()
    for line in content.split(b"\n"):
        try:
            inputs._add(line, data)
        except ValueError as e:
            assert str(e)


def test_builtin_set_is_what_it_promises() -> None:
    """Catches a set that is too small, not labelled, or repeats itself."""
    data = inputs.builtin()
    assert len(data.rankings) >= 30
    assert len(set(data.prompts)) >= 20
    assert len({r.query for r in data.rankings}) == len(data.rankings)
    for ranking in data.rankings:
        assert len(set(ranking.documents)) == 8
        assert ranking.relevance is not None
        assert sorted(ranking.relevance)[-3:] == [1, 2, 3]
