# SPDX-License-Identifier: Apache-2.0
"""What FP8 may change in generated text and its logprobs."""

from vllm_xpu_fp8_plugin.verify.plan import GENERATE
from vllm_xpu_fp8_plugin.verify.threshold import most

GENERATED = (
    most(
        "length_drift_max",
        (GENERATE,),
        "greatest change, in nats, of the reference's first token in the length sweep",
        "Texts of a few tokens leave much open and drift more than whole prompts.",
        drift=2,
    ),
    most(
        "length_drift_mean",
        (GENERATE,),
        "mean change, in nats, of the reference's first token in the length sweep",
        "Texts of a few tokens leave much open and drift more than whole prompts.",
        drift=0.4,
    ),
    most(
        "empty_output",
        (GENERATE,),
        "prompts and texts of the sweep with no token, beyond the reference's",
        "A model that goes on does not stop before its first token for rounding.",
        alarm=0,
    ),
    most(
        "adjacent_repeats",
        (GENERATE,),
        "share of tokens that repeat the one before, beyond the reference's",
        "Text has few (some per cent); where each second token is a repeat "
        "(intel/llm-scaler #721) it is 0.5.",
        alarm=0.15,
    ),
    most(
        "longest_run",
        (GENERATE,),
        "longest run of one token, beyond the reference's",
        "Runs without end are a known symptom (vLLM #45540); dots and dashes run "
        "short.",
        alarm=8,
    ),
    most(
        "greedy_gap",
        (GENERATE,),
        "greatest lead, in nats, of the likeliest token over the one that was taken",
        "Generation is greedy, so it takes the likeliest. Another one is the "
        "sampling's fault.",
        alarm=0.1,
    ),
    most(
        "decode_gap",
        (GENERATE,),
        "mean difference, in nats, of a token's logprob when the candidate generated "
        "it and when it reads it in a prompt",
        "The same model, cache format and token: only the order of sums differs. "
        "More says that decoding reads another cache than prefilling wrote.",
        alarm=0.15,
    ),
    most(
        "decode_gap_max",
        (GENERATE,),
        "the greatest such difference",
        "A wrong page, or a token that is missing from the cache, shows at some "
        "positions only.",
        alarm=1,
    ),
    most(
        "perplexity_ratio",
        (GENERATE,),
        "the candidate's perplexity ÷ the reference's, on prompts and the "
        "reference's text",
        "Published FP8 models lose below one per cent, a small one two. At 2 a token "
        "of the text is half as likely, and it is no longer modelled.",
        drift=1.1,
        alarm=2,
    ),
    most(
        "logprob_drift_mean",
        (GENERATE,),
        "mean change, in nats, of the logprob of the reference's tokens",
        "A tenth of a nat changes a probability by a tenth. SmolLM2-135M has 0.09, "
        "and larger models less.",
        drift=0.25,
        alarm=1,
    ),
    most(
        "logprob_drift_p99",
        (GENERATE,),
        "its 99th percentile",
        "Spread of a sound model's drift: five to six times its mean.",
        drift=1.2,
    ),
    most(
        "logprob_drift_max",
        (GENERATE,),
        "its greatest value",
        "A fault at one position hides in means and percentiles.",
        drift=2.5,
    ),
    most(
        "divergence_margin_median",
        (GENERATE,),
        "median lead, in nats, of the reference's token over the candidate's where "
        "their texts first differ",
        "Twice the drift of a logprob can turn a tie; it cannot overturn a clear lead.",
        drift=1,
    ),
    most(
        "divergence_margin_max",
        (GENERATE,),
        "the greatest such lead",
        "One text that parts where the reference was sure is one too many.",
        drift=2,
    ),
    most(
        "batch_margin_max",
        (GENERATE,),
        "greatest lead, in nats, of a prompt's token in a batch over its token alone "
        "where they first differ",
        "Only a near tie may fall the other way when sums are ordered otherwise; a "
        "bf16 logit of 20 is rounded to steps of 0.125.",
        alarm=1,
    ),
)
