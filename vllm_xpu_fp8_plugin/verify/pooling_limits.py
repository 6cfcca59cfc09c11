# SPDX-License-Identifier: Apache-2.0
"""What FP8 may change in scores, embeddings and classes."""

from vllm_xpu_fp8_plugin.verify.plan import CLASSIFY, EMBED, SCORE
from vllm_xpu_fp8_plugin.verify.rankings import CLEAR
from vllm_xpu_fp8_plugin.verify.threshold import POOLING, RANKING, least, most

POOLED = (
    most(
        "all_equal",
        POOLING,
        "1 if all answers of the candidate are one and the same",
        "Different texts have different scores. Seen where a score head was "
        "quantised (vLLM #35849).",
        alarm=0,
    ),
    most(
        "saturated",
        (SCORE, CLASSIFY),
        "share of scores on exactly 0, 0.5 or 1, beyond the reference's",
        "FP8 moves scores by per cents, it does not drive them into the bounds.",
        alarm=0.25,
    ),
    most(
        "response_error",
        POOLING,
        "how far the slope of the candidate's answers over the reference's is from "
        "1, less two standard errors",
        "Rounding scatters answers around the reference's, which leaves the slope at "
        "1. A scale that is wrong by a tenth makes it 1.1, answers that do not depend "
        "on the input 0.",
        drift=0.05,
        alarm=0.5,
    ),
    most(
        "score_drift_mean",
        POOLING,
        "mean change of a score, cosine or logit, in spreads",
        "A spread is what scores differ by, so a seventh of it mixes up only texts "
        "that hardly differ.",
        drift=0.15,
        alarm=0.7,
    ),
    most(
        "score_drift_max",
        RANKING,
        "greatest change of a score or cosine, in spreads",
        "The greatest of some hundred values is three to five times their mean; half a "
        "spread is another grade.",
        drift=0.4,
    ),
    most(
        "score_drift_max",
        (CLASSIFY,),
        "greatest change of a logit, in spreads",
        "As for scores, and the greatest of fifty classes drifts two to three times as "
        "far as one.",
        drift=0.75,
    ),
    least(
        "order_kept",
        RANKING,
        "agreement of the order of pairs of documents, each pair weighing what the "
        "reference's lead is: 1 all, 0 half of them, -1 none",
        f"Leads below {CLEAR:g} spreads count for nothing, so that documents which are "
        "equally irrelevant may swap. Unrelated orders have 0.",
        drift=0.99,
        alarm=0.5,
    ),
    most(
        "flipped_lead_max",
        RANKING,
        "greatest lead of one document over another, in spreads, that is lost",
        "Rounding turns a lead that is as small as the drift of two scores.",
        drift=0.5,
    ),
    least(
        "top1_agreement",
        RANKING,
        "share of rankings whose first document is the reference's, or behind it by "
        f"less than {CLEAR:g} spreads",
        "What a user sees first.",
        drift=0.95,
    ),
    least(
        "ndcg10_agreement",
        RANKING,
        "nDCG@10 of all rankings, a document's grade being its lead over the "
        "reference's last",
        "A swap costs what the lead was worth, near the top more than below.",
        drift=0.995,
    ),
    most(
        "ndcg10_labels_loss",
        RANKING,
        "nDCG@10 by the data's relevance grades, the reference's less the "
        "candidate's, less two standard errors",
        "The quality that is lost for sure; differences that chance explains are not.",
        drift=0.02,
    ),
    least(
        "label_agreement",
        (CLASSIFY,),
        "share of texts with the reference's label, or one that is behind it by less "
        f"than {CLEAR:g} spreads",
        "Only texts between two labels may change sides, and those do not count.",
        drift=0.97,
    ),
    most(
        "cosine_drift_mean",
        (EMBED,),
        "mean cosine distance of an item's vectors in both arms",
        "Half the square of the relative error: 0.006 is an error of 11 %.",
        drift=0.006,
        alarm=0.2,
    ),
    most(
        "cosine_drift_max",
        (EMBED,),
        "greatest cosine distance of an item's vectors in both arms",
        "A relative error of 17 % of one text.",
        drift=0.015,
    ),
    most(
        "norm_drift_max",
        (EMBED,),
        "greatest absolute log(norm ÷ the reference's norm) of a vector",
        "Normalised vectors have 0. Others change by the relative error at most, and "
        "0.05 is 5 %; half as long again is a wrong scale.",
        drift=0.05,
        alarm=0.4,
    ),
    most(
        "length_drift_max",
        (SCORE,),
        "greatest drift in the length sweep, in spreads",
        "As for whole texts, but cut anywhere; sound models reach 0.26, and a fault at "
        "one length stands out.",
        drift=0.75,
    ),
    most(
        "length_drift_max",
        (CLASSIFY,),
        "greatest drift of a logit in the length sweep, in spreads",
        "Texts cut anywhere are none of the classes, and the greatest of fifty "
        "classes drifts two to three times as far as one; sound models reach 0.84.",
        drift=1.5,
    ),
    most(
        "length_drift_max",
        (EMBED,),
        "greatest cosine distance in the length sweep",
        "As for whole texts, but some are of a word or two, and others are cut where "
        "no text ends; sound models reach 0.05.",
        drift=0.12,
    ),
    most(
        "length_drift_mean",
        (SCORE,),
        "mean drift in the length sweep, in spreads",
        "As for whole texts, but cut anywhere.",
        drift=0.2,
    ),
    most(
        "length_drift_mean",
        (CLASSIFY,),
        "mean drift of a logit in the length sweep, in spreads",
        "As for whole texts, but cut anywhere, and of the worst class.",
        drift=0.3,
    ),
    most(
        "length_drift_mean",
        (EMBED,),
        "mean cosine distance in the length sweep",
        "As for whole texts.",
        drift=0.01,
    ),
    most(
        "batch_drift_max",
        (SCORE, CLASSIFY),
        "greatest change, in spreads, of an item alone against the same in a batch",
        "Other items are none of its business; only the order of sums may differ, "
        "which half precision keeps well below rounding to FP8.",
        alarm=0.15,
    ),
    most(
        "batch_drift_max",
        (EMBED,),
        "greatest cosine distance of an item alone and the same in a batch",
        "Other items are none of its business; only the order of sums may differ, "
        "which half precision keeps below 0.001.",
        alarm=0.01,
    ),
)
