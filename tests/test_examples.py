# SPDX-License-Identifier: Apache-2.0
"""The examples, as a user runs them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.programs import ROOT, environment
from tests.stranger import Stranger


def rerank(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples/rerank.py"), *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def reranked() -> subprocess.CompletedProcess[str]:
    """Return the main job's output."""
    return rerank()


@pytest.mark.slow
def test_rerank_ranks_the_right_passage_first(
    reranked: subprocess.CompletedProcess[str],
) -> None:
    """Catches the main job failing, printing noise, or not fitting 80 columns."""
    done = reranked
    assert done.returncode == 0, done.stderr
    assert "Platform:  Virtual Intel GPU (software)" in done.stdout
    assert "24 linear layers" in done.stdout
    assert "\x1b" not in done.stdout, "no colour in a pipe"
    assert max(map(len, done.stdout.splitlines())) <= 80
    best = re.findall(r"^ +1 │ +[\d.]+ │ (.*?) *$", done.stdout, re.MULTILINE)
    assert len(best) == 12
    assert best[0] == "The capital of France is Paris."
    assert best[6].startswith("Clicking noises")
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.slow
def test_readme_shows_what_rerank_prints(
    reranked: subprocess.CompletedProcess[str],
) -> None:
    """Catches a transcript that is not one; scores may differ by rounding."""
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"```text\n(Platform:.*?)```", readme, re.DOTALL)
    assert shown
    score = re.compile(r"(?<=│ )\d\.\d{3}(?= │)")
    expected = shown[1].splitlines()
    printed = [x.rstrip() for x in reranked.stdout.splitlines()][: len(expected)]
    assert [score.sub("", x) for x in printed] == [score.sub("", x) for x in expected]
    scores = [
        [float(s) for s in score.findall("\n".join(x))] for x in (printed, expected)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


@pytest.mark.slow
def test_rerank_takes_query_and_documents(tmp_path: Path, minilm: str) -> None:
    """Catches arguments that are not used, and texts and modules that are obeyed."""
    stranger = Stranger(tmp_path / "stranger")
    documents = stranger.folder / "documents.jsonl"
    cat, rain = "A cat sleeps \x1b[2J[red].", "It rains a lot."
    documents.write_text(
        "\n\n".join(json.dumps({"text": text}) for text in (cat, rain))
    )
    done = rerank(
        *("--model", minilm, "--query", "[red]weather"),
        *("--documents", "documents.jsonl"),
        folder=stranger.folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("It rains") < done.stdout.index("A cat sleeps [red].")
    assert "[red]weather" in done.stdout
    assert stranger.has_run() == []


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (["--query", "q"], None, "--query and --documents go together"),
        (["--query", " ", "--documents", "FILE"], '{"text": "a"}', "--query is empty"),
        (["--query", "q", "--documents", "FILE"], None, "cannot read"),
        (["--query", "q", "--documents", "FILE"], "", "no documents"),
        (["--query", "q", "--documents", "FILE"], '{"text": ""}', "document 1 has no"),
        (["--query", "q", "--documents", "FILE"], '{"text": 3}', "document 1 has no"),
        (["--query", "q", "--documents", "FILE"], '{"text": "a"}\n{', "jsonl:2: not J"),
        (["--query", "q", "--documents", "FILE"], "[1]", "JSON object is needed"),
        (["--model", "./no/such/folder"], None, "no such folder"),
    ],
)
def test_rerank_bad_input_ends_with_one_line(
    arguments: list[str], content: str | None, message: str, tmp_path: Path
) -> None:
    """Catches a traceback, or an engine started for input that cannot work."""
    file = tmp_path / "d.jsonl"
    if content is not None:
        file.write_text(content)
    done = rerank(*(str(file) if a == "FILE" else a for a in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_client_without_a_server_says_so() -> None:
    """Catches a traceback where the server is down."""
    done = subprocess.run(
        [sys.executable, "examples/client.py", "--url", "http://127.0.0.1:9"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    assert "Is the server up?" in done.stderr
    assert "Traceback" not in done.stderr
