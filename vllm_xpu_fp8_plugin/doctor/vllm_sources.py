# SPDX-License-Identifier: Apache-2.0
"""The installed vLLM, looked at without importing it."""

import ast
import importlib.metadata
import importlib.util
from pathlib import Path

from packaging.version import InvalidVersion, Version

from vllm_xpu_fp8_plugin.kernel_package.left_out import DIFFKV_TRITON
from vllm_xpu_fp8_plugin.vllm_releases import KEEPS_BIASES


def folder() -> Path | None:
    """Return the folder of vLLM's package, None if it is not installed."""
    spec = importlib.util.find_spec("vllm")
    # Without a file of its own it is a folder that happens to have the name.
    if spec is None or not spec.submodule_search_locations or spec.origin is None:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def version() -> str | None:
    """Return vLLM's version, None if no distribution is named vllm."""
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return None


def loses_biases() -> bool:
    """Return whether vLLM loses biases as it quantises, which the plugin mends."""
    try:
        return Version(version() or "") < Version(KEEPS_BIASES)
    except InvalidVersion:
        return False


def build(vllm: Path) -> str:
    """Return what vLLM is built for, from its version and its libraries."""
    label = (version() or "").partition("+")[2]
    for name in ("xpu", "cpu", "rocm"):
        if name in label:
            return name.upper() if name != "rocm" else "ROCm"
    # vLLM's build for XPU compiles nothing: its kernels are another package's.
    return "CUDA" if any(vllm.glob("_C*.so")) else "XPU (no compiled kernels)"


def strings(path: Path, name: str) -> tuple[str, ...]:
    """Return the strings of a list or a Literal that a source assigns to a name.

    Empty if there is none: callers check nothing then.
    """
    try:
        tree = ast.parse(path.read_text())
    except (OSError, SyntaxError, ValueError):
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            targets: list[ast.expr] = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        else:
            continue
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return tuple(
                n.value
                for n in ast.walk(node.value or node)
                if isinstance(n, ast.Constant) and isinstance(n.value, str)
            )
    return ()


def triton_encoder_arguments(vllm: Path | None) -> frozenset[str]:
    """Return what vLLM's Triton attention takes in an encoder layer.

    Empty if there is no vLLM, or no such function.
    """
    if vllm is None:
        return frozenset()
    path = vllm / "v1/attention/ops/triton_prefill_attention.py"
    try:
        tree = ast.parse(path.read_text())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "context_attention_fwd":
            return frozenset(a.arg for a in [*node.args.args, *node.args.kwonlyargs])
    return frozenset()


def takes_triton_diffkv(vllm: Path | None, architecture: str) -> bool:
    """Return whether a model with values of another size than keys runs by Triton.

    Such a model chooses its backend itself: OpenPangu FlashAttention's, MiMo V2
    Triton's, if this vLLM has it, where FlashAttention is version 2, as on an XPU.
    """
    if vllm is None or "mimo" not in architecture.lower():
        return False
    path = vllm / "model_executor/models/mimo_v2.py"
    return path.exists() and DIFFKV_TRITON in path.read_text()


def quantises_score_head(vllm: Path) -> bool | None:
    """Return whether a decoder made a classifier gets its head quantised.

    `as_seq_cls_model` makes ``self.score`` a linear layer, with or without the
    model's quantization. None if it is not found.
    """
    try:
        tree = ast.parse((vllm / "model_executor/models/adapters.py").read_text())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "self.score"
            and isinstance(node.value, ast.Call)
        ):
            given = {k.arg: k.value for k in node.value.keywords}
            value = given.get("quant_config")
            return value is not None and not (
                isinstance(value, ast.Constant) and value.value is None
            )
    return None
