# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of four bits made by the real auto-round, and what it stands for.

As a script it quantises: ``auto_round_model.py SOURCE TARGET``. auto-round and what it
imports are put on that process's path and installed nowhere.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_FOLDER = Path(__file__).parent.parent / ".models"
# Without what they depend on: torch and transformers are there.
_PACKAGES = (
    "auto-round==0.16.1",
    *("datasets", "multiprocess", "pandas", "pyarrow", "xxhash"),
)
_GROUP = 32


def quantized(source: str, folder: Path) -> tuple[str, str]:
    """Write `source` in four bits, and the same values in float32.

    Args:
        source: A folder with a model and its tokenizer.
        folder: Two folders are made in it.

    Returns:
        The folders of auto-round's checkpoint and of what it stands for.

    """
    packed, plain = folder / "auto_round", folder / "float32"
    subprocess.run(
        [sys.executable, __file__, source, str(packed)],
        env={**os.environ, "PYTHONPATH": str(_packages()), "HF_HUB_OFFLINE": "1"},
        check=True,
        timeout=600,
    )
    shutil.copytree(source, plain)
    tensors = load_file(packed / "model.safetensors")
    for name in [n for n in tensors if n.endswith(".qweight")]:
        stem = name.removesuffix(".qweight")
        parts = [tensors.pop(f"{stem}.{p}") for p in ("qweight", "qzeros", "scales")]
        tensors.pop(f"{stem}.g_idx", None)
        tensors[f"{stem}.weight"] = _values(*parts)
    plain_tensors = {name: t.float().contiguous() for name, t in tensors.items()}
    save_file(plain_tensors, plain / "model.safetensors", {"format": "pt"})
    return str(packed), str(plain)


def _nibbles(packed: Tensor, dim: int) -> Tensor:
    """Return the eight numbers of each int32, along a dimension."""
    shifts = 4 * torch.arange(8).view(-1, *[1] * (packed.dim() - dim - 1))
    return (packed.long().unsqueeze(dim + 1) >> shifts & 15).flatten(dim, dim + 1)


def _values(qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Tensor:
    """Return [N, K] of GPTQ's packing, which stores a zero point less one."""
    zeros = _nibbles(qzeros, 1) + 1
    by_group = (
        _nibbles(qweight, 0).unflatten(0, (-1, _GROUP)) - zeros[:, None]
    ).float()
    return (by_group * scales.float()[:, None]).flatten(0, 1).t().contiguous()


def _packages() -> Path:
    """Return a folder with auto-round, made if it is not there yet."""
    folder = _FOLDER / _PACKAGES[0]
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / "auto-round.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
            command = [*install, "--target", str(partial), *_PACKAGES]
            subprocess.run(command, check=True, timeout=600)
            partial.rename(folder)
    return folder


if __name__ == "__main__":
    from auto_round import AutoRound  # type: ignore[import-not-found]

    rounds = AutoRound(
        sys.argv[1],
        scheme="W4A16",
        group_size=_GROUP,
        # Round to nearest: what is packed is looked at here, not how well.
        iters=0,
        disable_opt_rtn=True,
    )
    rounds.quantize_and_save(sys.argv[2], format="auto_round")
