# SPDX-License-Identifier: Apache-2.0
"""What FP8 may change, and why: the one place for every limit.

An e4m3 number has three mantissa bits, so rounding a weight to it is off by up to
2**-4 of its size, 2.6 % root-mean-square. Such errors are independent and average
out over a product's inputs: each layer's output is off by some per cent in a random
direction, and the residual stream carries the sum of the layers. The limits allow
about five times what sound models showed (all-MiniLM-L6-v2, rxnfp, SmolLM2-135M,
five seeds each); faulty kernels miss them by far more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vllm_xpu_fp8_plugin.verify.plan import CLASSIFY, EMBED, GENERATE, SCORE

ALARM, DRIFT = "alarm", "drift"
_POOLING = (SCORE, EMBED, CLASSIFY)
_RANKING = (SCORE, EMBED)
_ALL = (*_POOLING, GENERATE)


@dataclass(frozen=True)
class Threshold:
    """A limit for a measure.

    Attributes:
        name: The measure's name.
        tasks: The tasks that it is for; another entry may have other limits.
        kind: `ALARM` for what no rounding explains, else `DRIFT`.
        limit: The worst value that passes.
        at_least: Whether the value must not be less, rather than not greater.
        meaning: What the measure is.
        reason: Why the limit is where it is.

    """

    name: str
    tasks: tuple[str, ...]
    kind: str
    limit: float
    at_least: bool
    meaning: str
    reason: str

    def passes(self, value: float, limit: float) -> bool:
        """Return whether a value is within a limit; NaN is not."""
        return value >= limit if self.at_least else value <= limit


def _most(
    name: str, tasks: Iterable[str], kind: str, limit: float, meaning: str, reason: str
) -> Threshold:
    return Threshold(name, tuple(tasks), kind, limit, False, meaning, reason)


def _least(
    name: str, tasks: Iterable[str], kind: str, limit: float, meaning: str, reason: str
) -> Threshold:
    return Threshold(name, tuple(tasks), kind, limit, True, meaning, reason)


THRESHOLDS = (
    _most(
        "non_finite",
        _ALL,
        ALARM,
        0,
        "items with NaN or infinity in the candidate",
        "No rounding of sound numbers gives NaN: a kernel read or wrote what it "
        "should not.",
    ),
    _most(
        "reference_non_finite",
        _ALL,
        ALARM,
        0,
        "items with NaN or infinity in the reference",
        "Then nothing can be compared with it, and the fault is not FP8's.",
    ),
    _most(
        "all_equal",
        _POOLING,
        ALARM,
        0,
        "1 if all answers of the candidate are one and the same",
        "Different texts have different scores. Seen where a score head was "
        "quantised (vLLM #35849).",
    ),
    _most(
        "saturated",
        (SCORE, CLASSIFY),
        ALARM,
        0.25,
        "share of scores on exactly 0, 0.5 or 1, beyond the reference's",
        "FP8 moves scores by per cents, it does not drive them into the bounds.",
    ),
    _least(
        "order_kept",
        _RANKING,
        ALARM,
        0.5,
        "mean Spearman coefficient; below the limit the order has collapsed",
        "Unrelated orders have a mean of 0; sound FP8 stays above 0.95.",
    ),
    _least(
        "label_agreement",
        (CLASSIFY,),
        DRIFT,
        0.95,
        "share of texts with the reference's label",
        "Only texts between two labels may change sides; one in twenty is such a text.",
    ),
    _most(
        "cosine_drift_mean",
        (EMBED,),
        DRIFT,
        0.01,
        "mean cosine distance of an item's vectors in both arms",
        "Half the square of the relative error: 0.01 is an error of 14 %. "
        "all-MiniLM-L6-v2 has 0.0015.",
    ),
    _most(
        "cosine_drift_max",
        (EMBED,),
        DRIFT,
        0.03,
        "greatest cosine distance of an item's vectors in both arms",
        "A relative error of 24 % of one text. all-MiniLM-L6-v2 has 0.003.",
    ),
    _most(
        "score_drift_mean",
        (SCORE, EMBED, CLASSIFY),
        DRIFT,
        0.03,
        "mean change of a score, cosine or probability",
        "Scores span 0 to 1 (cosines -1 to 1), and passages worth telling apart "
        "differ by more. all-MiniLM-L6-v2 has 0.004.",
    ),
    _most(
        "score_drift_max",
        _RANKING,
        DRIFT,
        0.15,
        "greatest change of a score or cosine",
        "The greatest of some hundred values is three to five times their mean.",
    ),
    _least(
        "spearman_mean",
        _RANKING,
        DRIFT,
        0.95,
        "mean over rankings of Spearman's rho between both arms",
        "Neighbours in a ranking of eight that swap cost 0.024, so this allows two "
        "swaps in each. all-MiniLM-L6-v2 has 0.998.",
    ),
    _least(
        "kendall_mean",
        _RANKING,
        DRIFT,
        0.87,
        "mean over rankings of Kendall's tau between both arms",
        "A swap in a ranking of eight costs 0.071; the same two swaps.",
    ),
    _least(
        "top1_agreement",
        _RANKING,
        DRIFT,
        0.9,
        "share of rankings with the reference's best document first",
        "What a user sees first. Near ties swap in a few of a hundred.",
    ),
    _least(
        "ndcg10_agreement",
        _RANKING,
        DRIFT,
        0.97,
        "nDCG@10 with the reference's order as the grades",
        "Swaps near the top cost the most; two neighbours of eight at the top cost "
        "0.02.",
    ),
    _most(
        "ndcg10_labels_loss",
        _RANKING,
        DRIFT,
        0.02,
        "nDCG@10 by the data's relevance grades, the reference's less the candidate's",
        "The quality that is lost. Differences of this size are noise between runs "
        "of an evaluation on some dozen queries.",
    ),
    _most(
        "length_drift_max",
        (SCORE, EMBED),
        DRIFT,
        0.15,
        "greatest drift in the length sweep",
        "As for whole texts; a fault at one length stands out as one value.",
    ),
    _most(
        "length_drift_mean",
        (CLASSIFY,),
        DRIFT,
        0.1,
        "mean drift in the length sweep",
        "Texts cut anywhere are none of the classes, and their probabilities lie "
        "where the softmax is steepest.",
    ),
    _most(
        "batch_drift_max",
        _POOLING,
        ALARM,
        0.02,
        "greatest change of an item alone against the same in a batch",
        "Other items are none of its business; only the order of sums may differ, "
        "which half precision keeps below 0.01.",
    ),
    _most(
        "empty_output",
        (GENERATE,),
        ALARM,
        0,
        "prompts with no token, beyond the reference's",
        "A model that goes on does not stop before its first token for rounding.",
    ),
    _most(
        "adjacent_repeats",
        (GENERATE,),
        ALARM,
        0.15,
        "share of tokens that repeat the one before, beyond the reference's",
        "Text has few (some per cent); where each second token is a repeat "
        "(intel/llm-scaler #721) it is 0.5.",
    ),
    _most(
        "longest_run",
        (GENERATE,),
        ALARM,
        8,
        "longest run of one token, beyond the reference's",
        "Runs without end are a known symptom (vLLM #45540); dots and dashes run "
        "short.",
    ),
    _most(
        "decode_gap",
        (GENERATE,),
        ALARM,
        0.15,
        "mean difference, in nats, of a token's logprob when the candidate generated "
        "it and when it reads it in a prompt",
        "The same model, cache format and token: only the order of sums differs. "
        "SmolLM2-135M has 0.03. More says that decoding reads another cache than "
        "prefilling wrote.",
    ),
    _most(
        "perplexity_collapse",
        (GENERATE,),
        ALARM,
        2,
        "the candidate's perplexity ÷ the reference's; above the limit it no longer "
        "models the text",
        "A token of the reference's text is half as likely on average. Rounding costs "
        "a few per cent; a wrong scale costs factors of ten and more.",
    ),
    _most(
        "logprob_drift_mean",
        (GENERATE,),
        DRIFT,
        0.25,
        "mean change, in nats, of the logprob of the reference's tokens",
        "A tenth of a nat changes a probability by a tenth. SmolLM2-135M has 0.09, "
        "and larger models less.",
    ),
    _most(
        "logprob_drift_p99",
        (GENERATE,),
        DRIFT,
        1.5,
        "its 99th percentile",
        "Spread of a sound model's drift: five to six times its mean.",
    ),
    _most(
        "perplexity_ratio",
        (GENERATE,),
        DRIFT,
        1.1,
        "the candidate's perplexity ÷ the reference's, on prompts and the "
        "reference's text",
        "Published FP8 models lose below one per cent, a small one two.",
    ),
    _most(
        "divergence_margin_median",
        (GENERATE,),
        DRIFT,
        1.0,
        "median lead, in nats, of the reference's token over the candidate's where "
        "their texts first differ",
        "Twice the drift of a logprob can turn a tie; it cannot overturn a clear lead.",
    ),
    _most(
        "length_drift_mean",
        (GENERATE,),
        DRIFT,
        0.5,
        "mean change, in nats, of the reference's first token in the length sweep",
        "Texts of a few tokens leave much open and drift more than whole prompts.",
    ),
    _most(
        "batch_margin_max",
        (GENERATE,),
        ALARM,
        1.0,
        "greatest lead, in nats, of a prompt's token in a batch over its token alone "
        "where they first differ",
        "Only a near tie may fall the other way when sums are ordered otherwise; a "
        "bf16 logit of 20 is rounded to steps of 0.125.",
    ),
)

NAMES = tuple(dict.fromkeys(t.name for t in THRESHOLDS))


def for_task(task: str) -> list[Threshold]:
    """Return the thresholds of a task."""
    return [t for t in THRESHOLDS if task in t.tasks]


def parse_limits(given: Iterable[str]) -> Mapping[str, float]:
    """Read ``NAME=VALUE`` words.

    Raises:
        ValueError: A word is not of that form, or there is no such measure.

    """
    limits = {}
    for word in given:
        name, _, number = word.partition("=")
        if name not in NAMES:
            raise ValueError(
                f"--limit {word}: no measure is called {name!r}. There are: "
                + ", ".join(NAMES)
            )
        try:
            limits[name] = float(number)
        except ValueError:
            raise ValueError(f"--limit {word}: {number!r} is not a number") from None
        if limits[name] != limits[name]:
            raise ValueError(f"--limit {word}: NaN compares with nothing")
    return limits


def markdown_table() -> str:
    """Return the table of docs/verify.md."""
    rows = [
        "| measure | task | kind | limit | what it is | why there |",
        "|---|---|---|---|---|---|",
    ]
    for t in THRESHOLDS:
        sign = "≥" if t.at_least else "≤"
        tasks = "all" if t.tasks == _ALL else ", ".join(t.tasks)
        rows.append(
            f"| `{t.name}` | {tasks} | {t.kind} | {sign} {t.limit:g} | {t.meaning} "
            f"| {t.reason} |"
        )
    return "\n".join(rows)
