# SPDX-License-Identifier: Apache-2.0
"""An encoder-decoder with cross attention, on the virtual XPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from tests.engine import run_engine
from tests.real_models import real_model

pytestmark = pytest.mark.slow

PROMPT = [50257, 50362]  # <|startoftranscript|><|notimestamps|>
SECONDS, RATE = 6, 16000


def sound() -> np.ndarray:
    """Return voice-like sound: a pulse with moving resonances, in syllables."""
    t = np.arange(SECONDS * RATE) / RATE
    pitch = 110 + 15 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = np.zeros_like(t)
    for harmonic in range(1, 30):
        frequency = harmonic * pitch
        gain = sum(
            np.exp(-(((frequency - centre) / 120) ** 2))
            for centre in (
                500 + 200 * np.sin(2 * np.pi * 1.3 * t),
                1500 + 500 * np.sin(2 * np.pi * 0.9 * t + 1),
                2500 + 100 * np.sin(2 * np.pi * 2.1 * t),
            )
        )
        wave += gain * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 2 * t), 0, None)
    return (0.3 * wave * syllables / np.abs(wave).max()).astype(np.float32)


def test_whisper_agrees_with_transformers(tmp_path: Path) -> None:
    """Catches cross attention that is causal, or reads other pages."""
    folder = real_model("whisper")
    np.save(tmp_path / "sound.npy", sound())
    result = run_engine(
        llm={
            "model": folder,
            "dtype": "float16",
            "max_num_batched_tokens": 1500,
            "max_model_len": 128,
        },
        transcribe=str(tmp_path / "sound.npy"),
        decoder_prompt=PROMPT,
    )
    assert result["error"] is None
    kinds = {(call["causal"], call["paged"]) for call in result["calls"]}
    # Cross attention over all keys, and the decoder's own. The encoder goes through
    # vLLM's attention for multimodal encoders, which needs no backend.
    assert kinds == {(False, True), (True, True)}

    model = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        sound(), sampling_rate=RATE, return_tensors="pt"
    ).input_features
    done = result["out"][0]
    tokens = torch.tensor(done["tokens"])
    with torch.no_grad():
        logits = model(
            input_features=features,
            decoder_input_ids=torch.tensor([PROMPT + done["tokens"]]),
        ).logits[0]
    reference = logits[len(PROMPT) - 1 : -1].log_softmax(-1)
    chosen = reference.gather(1, tokens[:, None])[:, 0]
    # Greedy tokens are the same; logprobs were within 0.006 nats.
    assert (reference.argmax(dim=-1) == tokens).all()
    assert (torch.tensor(done["logprobs"]) - chosen).abs().max() < 0.02
