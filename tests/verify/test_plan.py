# SPDX-License-Identifier: Apache-2.0
"""The plan: what both arms run fits the model and covers what may go wrong."""

import itertools
from typing import Any

import pytest

from vllm_xpu_fp8_plugin.verify import plan

CLS, SEP = 101, 102

DATA: dict[str, Any] = {
    "rankings": [
        {"query": "a b", "documents": ["c", "d e f"], "relevance": [0, 1]},
        {"query": "g", "documents": ["c", "h i"], "relevance": None},
    ],
    "texts": ["j k", "l"],
    "prompts": ["m n o", "p"],
}


def encode(text: str, special: bool) -> list[int]:
    """Encode a letter a token, between two special ones."""
    ids = [ord(word[0]) % 96 for word in text.split()]
    return [CLS, *ids, SEP] if special else ids


def make(task: str, **given: Any) -> dict[str, Any]:
    data = {**DATA, **given.pop("data", {})}
    defaults = {"longest": 300, "page": 16, "max_tokens": 8, "seed": 0}
    return plan.make(task, data, encode, **{**defaults, **given})


def test_items_of_each_task() -> None:
    """Catches data that is left out, or run twice."""
    assert make("score")["items"] == [
        ["a b", "c"],
        ["a b", "d e f"],
        ["g", "c"],
        ["g", "h i"],
    ]
    embedded = ["a b", "c", "d e f", "g", "h i", "j k", "l"]
    assert make("embed")["items"] == embedded
    assert make("classify")["items"] == ["j k", "l"]
    assert make("generate")["items"] == [encode("m n o", True), encode("p", True)]


@pytest.mark.parametrize(
    ("task", "needed"),
    [("score", "query"), ("classify", "text"), ("generate", "prompt")],
)
def test_data_without_a_line_for_the_task_is_refused(task: str, needed: str) -> None:
    """Catches a run on nothing, which passes."""
    empty = {"rankings": [], "texts": [], "prompts": []}
    with pytest.raises(ValueError, match=f'"{needed}"'):
        make(task, data=empty)


def test_lengths_lie_on_pages_and_beside_them() -> None:
    """Catches a sweep that misses a remainder, one token, or the longest text."""
    wanted = plan.lengths(64, 300, 0)
    assert {n % 64 for n in wanted} == set(range(64))
    around = {m * 64 + d for m, d in itertools.product((1, 2, 3, 4), (-1, 0, 1, 5))}
    assert {1, 300, *around} <= set(wanted)
    assert plan.lengths(64, 40, 0) == list(range(1, 41))
    assert plan.lengths(64, 0, 0) == []


@pytest.mark.parametrize("longest", [512, 2048, 8192, 40_960])
def test_lengths_go_on_to_the_longest(longest: int) -> None:
    """Catches a fault between the fourth page and the longest text that none sees."""
    wanted = plan.lengths(64, longest, 0)
    beyond = [n for n in wanted if n > 261]
    assert wanted[-1] == longest
    assert max(b / a for a, b in itertools.pairwise(beyond)) < 2.6
    assert sum(n % 64 == 5 for n in wanted) >= 6
    assert sum(n % 64 == 5 for n in beyond) >= 3
    odd = [n for n in beyond if n % 64 != 5 and n % 2]
    assert len(odd) >= 4
    # Other ones with another seed, and no more than a few times the longest to run.
    assert plan.lengths(64, longest, 1) != wanted
    assert sum(beyond) < 10 * longest


@pytest.mark.parametrize("page", [64, 128, 784])
def test_lengths_with_pages_of_another_size(page: int) -> None:
    """Catches steps that are made for pages of 64 tokens."""
    wanted = plan.lengths(page, 8192, 0)
    assert {n % page for n in wanted} == set(range(page))
    assert sum(n % page == 5 for n in wanted) >= 6


@pytest.mark.parametrize("task", ["score", "classify"])
def test_probes_come_with_the_package(task: str) -> None:
    """Catches a user's one-sided data as the only one there is."""
    made = make(task)
    assert len(made["probes"]) == 16
    assert len({str(x) for x in made["probes"]}) == 16
    assert isinstance(made["probes"][0], list) == (task == "score")
    assert make("embed")["probes"] == make("generate")["probes"] == []
    texts = make(task, longest=12)["probes"]
    whole = (" ".join(x) if task == "score" else x for x in texts)
    assert max(len(encode(x, True)) for x in whole) <= 12


def test_items_alone_are_from_all_of_the_batch() -> None:
    """Catches a fault at the end of a batch that the first items do not show."""
    made = make("embed")
    places = [made["order"].index(i) for i in made["alone"]]
    assert len(places) == 4
    assert {0, 6} <= set(places)
    assert make("score", data={"rankings": DATA["rankings"][:1]})["alone"] == [0, 1]


@pytest.mark.parametrize("task", ["score", "embed", "classify", "generate"])
def test_sequences_of_the_sweep_have_their_lengths(task: str) -> None:
    """Catches a sweep of other lengths, and one without special tokens."""
    made = make(task)
    longest = 299 if task == "generate" else 300
    assert [len(ids) for ids in made["lengths"]] == plan.lengths(64, longest, 0)
    assert all(ids[0] == CLS and ids[-1] == SEP for ids in made["lengths"][3:])


def test_seed_fixes_order_and_sweep() -> None:
    """Catches arms that get different inputs, and a seed without effect."""
    first, again, other = (make("embed", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["order"] != other["order"]
    assert first["lengths"] != other["lengths"]
    assert sorted(first["order"]) == list(range(7))


def test_long_texts_are_cut_to_fit_and_counted() -> None:
    """Catches an arm that dies of a long text, or cuts it in its own way."""
    long = " ".join("abcdefghij" * 5)
    data = {
        "rankings": [{"query": long, "documents": ["c", long], "relevance": [0, 1]}],
        "texts": [long, "l"],
        "prompts": [long, "p"],
    }
    made = make("embed", data=data, longest=20)
    # The query, the document and the text are one and the same.
    assert made["texts_cut"] == 3
    assert max(len(encode(text, True)) for text in made["items"]) <= 20
    assert made["rankings"][0]["query"] in made["items"]
    pairs = make("score", data=data, longest=20)["items"]
    assert all(len(encode(f"{q} {d}", True)) <= 20 for q, d in pairs)
    assert all(q and d for q, d in pairs)
    generated = make("generate", data=data, longest=20)
    assert generated["texts_cut"] == 1
    assert [len(ids) for ids in generated["items"]] == [12, 3]
    assert make("embed")["texts_cut"] == 0


def test_limit_of_the_tokenizer_counts_for_encoders() -> None:
    """Catches RoBERTa at a position that it does not have."""

    class Tokenizer:
        model_max_length = 512

    assert plan.longest_input("score", 514, Tokenizer()) == 512
    assert plan.longest_input("embed", 128, Tokenizer()) == 128
    assert plan.longest_input("generate", 2048, Tokenizer()) == 2048
