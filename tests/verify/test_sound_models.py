# SPDX-License-Identifier: Apache-2.0
"""`verify` passes real models in sound FP8; `sound_models` runs more of it.

The decoder is in test_faults, where its faults need a sound run beside them.
"""

import pytest

from tests.verify.sound_models import reports, requests


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "size", "unit"),
    [
        ("all-MiniLM-L6-v2", "embed", 6, "cosines"),
        ("rxnfp", "classify", 12, "log-probabilities"),
        ("scorer, sigmoid", "score", 8, "log-odds"),
        ("scorer, irrelevant tail", "score", 8, "as given"),
    ],
)
def test_sound_model_passes(name: str, task: str, size: int, unit: str) -> None:
    """Catches limits so tight, or measures so noisy, that right answers fail."""
    request = requests()[name]
    data = request["data"]
    small = {k: v[:size] if isinstance(v, list) else v for k, v in data.items()}
    small_request = {
        **request,
        "data": small,
        "sweep": [1, 2, 63, 64, 65, 69, 128, 133],
    }
    for report in reports(small_request, range(2)):
        assert report["task"] == task
        assert report["verdict"] == "pass", report["checks"]
        assert report["arms"]["candidate"]["quantization"] == "fp8"
        assert unit in report["unit"]
        counts = report["arms"]["candidate"]["fp8"]
        assert counts["layers_fp8"] == counts["layers"] > 20
        assert 0 < counts["weights_fp8"] < counts["weights"]
        assert counts["caches"] == 0
