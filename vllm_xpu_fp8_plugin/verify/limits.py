# SPDX-License-Identifier: Apache-2.0
"""What FP8 may change, and why: limits of all kinds of work, and where others are.

An e4m3 number has three mantissa bits, so rounding a weight to it is off by up to
2**-4 of its size, 2.6 % root-mean-square. Such errors are independent and average
out over a product's inputs: each layer's output is off by some per cent in a random
direction, and the residual stream carries the sum of the layers. What sound models
measured, and which faults are seen, is in docs/verify.md.
"""

from collections.abc import Iterable, Mapping

from vllm_xpu_fp8_plugin.verify.generation_limits import GENERATED
from vllm_xpu_fp8_plugin.verify.lengths import OFF
from vllm_xpu_fp8_plugin.verify.plan import CLASSIFY, EMBED, GENERATE, SCORE
from vllm_xpu_fp8_plugin.verify.pooling_limits import POOLED
from vllm_xpu_fp8_plugin.verify.threshold import ALL, Limits, Threshold, least, most

_EVERYWHERE = (
    most(
        "non_finite",
        ALL,
        "items with NaN or infinity in the candidate",
        "No rounding of sound numbers gives NaN: a kernel read or wrote what it "
        "should not.",
        alarm=0,
    ),
    most(
        "reference_non_finite",
        ALL,
        "items with NaN or infinity in the reference",
        "Then nothing can be compared with it, and the fault is not FP8's.",
        alarm=0,
    ),
    most(
        "identical",
        ALL,
        "1 if every answer is the reference's to the last bit",
        "FP8 rounds, so it changes something. Where it does not, it was not used, "
        "and nothing was verified. Not asked of weights in another format (int4, "
        "MXFP4), which stand for values that a reference may have.",
        alarm=0,
    ),
    least(
        "fp8_layers",
        ALL,
        "layers of the candidate with FP8 weights or an FP8 KV cache",
        "A quantisation that reached no layer verifies nothing. Not asked of weights "
        "in another format (int4, MXFP4), which are counted apart.",
        alarm=1,
    ),
    most(
        "lengths_off",
        ALL,
        "share of lengths that drift by more than "
        f"{OFF[SCORE]:g} (score) or {OFF[CLASSIFY]:g} (classify) spreads, "
        f"{OFF[EMBED]:g} in cosine distance (embed) or {OFF[GENERATE]:g} nats "
        "(generate)",
        "A fault at some lengths that the mean over all hides.",
        drift=0.05,
        alarm=0.5,
    ),
)

THRESHOLDS = (*_EVERYWHERE, *POOLED, *GENERATED)

NAMES = tuple(dict.fromkeys(t.name for t in THRESHOLDS))


def for_task(task: str) -> list[Threshold]:
    """Return the thresholds of a task."""
    return [t for t in THRESHOLDS if task in t.tasks]


def parse_limits(given: Iterable[str]) -> Mapping[str, Limits]:
    """Read ``NAME=VALUE`` and ``NAME=DRIFT,ALARM`` words.

    Raises:
        ValueError: A word is not of that form, or there is no such measure.

    """
    limits = {}
    for word in given:
        name, _, numbers = word.partition("=")
        if name not in NAMES:
            raise ValueError(
                f"--limit {word}: no measure is called {name!r}. There are: "
                + ", ".join(NAMES)
            )
        try:
            values = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            raise ValueError(
                f"--limit {word}: {numbers!r} is neither a number nor two, for drift "
                "and for an alarm, with a comma"
            ) from None
        if len(values) > 2:
            raise ValueError(f"--limit {word}: got {len(values)} numbers, not 1 or 2")
        if any(value != value for value in values):
            raise ValueError(f"--limit {word}: NaN compares with nothing")
        limits[name] = values
    return limits


def markdown_table() -> str:
    """Return the table of docs/verify.md."""
    rows = [
        "| measure | task | drift | alarm | what it is | why there |",
        "|---|---|---|---|---|---|",
    ]
    for t in THRESHOLDS:
        sign = "<" if t.at_least else ">"
        tasks = "all" if t.tasks == ALL else ", ".join(t.tasks)
        limits = ["" if x is None else f"{sign} {x:g}" for x in (t.drift, t.alarm)]
        rows.append(
            f"| `{t.name}` | {tasks} | {limits[0]} | {limits[1]} | {t.meaning} "
            f"| {t.reason} |"
        )
    return "\n".join(rows)
