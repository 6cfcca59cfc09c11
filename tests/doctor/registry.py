# SPDX-License-Identifier: Apache-2.0
"""What vLLM makes of each architecture in its registry: encoder, or not.

Its judgement is `ModelConfig.attn_type` (vllm/config/model.py): the class's default
pooling, then ``is_causal`` of the config as its handler for the architecture left it,
then the class's own word. Where that is about scheduling and the layers are of the
other kind (`DECODERS`, `ENCODERS`), the layers count.

The handlers run here. What a class says is read from its source: imports of all 400
take half a minute and packages that are not there. The tests import some and compare.
"""

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import PretrainedConfig
from vllm.model_executor.models import registry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP

MODELS = Path(registry.__file__).parent
# Late interaction over a decoder: all tokens are pooled, which needs them at once.
DECODERS = {
    "ColPaliForRetrieval",
    "ColQwen3",
    "ColQwen3_5",
    "OpsColQwen3Model",
    "Qwen3VLNemotronEmbedModel",
}
# All of its attention is of `AttentionType.ENCODER_ONLY`; its class does not say so.
ENCODERS = {"EmbeddingGemma2Model"}

# A decorator, its argument, and what a class says without it.
_SAYS = {
    "attn_type": ("attn_type", None, "decoder"),
    "default_pooling_type": ("default_pooling_type", "seq_pooling_type", "LAST"),
}


def architectures() -> dict[str, tuple[str, str]]:
    """Return architecture -> (module, class), as in vLLM's registry."""
    return {
        name: (model.module_name, model.class_name)
        for name, model in registry.ModelRegistry.models.items()
    }


def says(module: str, name: str, decorator: str) -> str:
    """Return what a class says of itself by a decorator, or by one of a base's."""
    _, _, default = _SAYS[decorator]
    return _said(module, name, decorator) or default


def _said(module: str, name: str, decorator: str) -> str | None:
    tree = _tree(module)
    found = next(
        (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None
    )
    if found is None:
        imported = _imports(module).get(name)
        return _said(*imported, decorator) if imported else None
    function, argument, default = _SAYS[decorator]
    for call in found.decorator_list:
        if isinstance(call, ast.Call) and ast.unparse(call.func) == function:
            given = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
            if argument is None:
                return str(ast.literal_eval(call.args[0]))
            return str(given.get(argument, default))
    for base in found.bases:
        if isinstance(base, ast.Name) and (said := _said(module, base.id, decorator)):
            return said
    return None


def _source(module: str) -> Path:
    path = MODELS.parents[2] / f"{module.replace('.', '/')}.py"
    return path if path.exists() else path.with_suffix("") / "__init__.py"


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_source(module).read_text())


@functools.cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    """Return name -> (module, name there) of what a module takes from vLLM's models."""
    found = {}
    package = module.split(".")
    if _source(module).name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(_tree(module)):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        source = node.module
        if node.level:
            source = ".".join([*package[: len(package) - node.level + 1], source])
        if source.startswith(("vllm.model_executor.models.", "vllm.models.")):
            for alias in node.names:
                found[alias.asname or alias.name] = (source, alias.name)
    return found


def is_encoder(architecture: str, config: Mapping[str, Any]) -> bool:
    """Return vLLM's judgement on an architecture with these fields in its config."""
    module, name = architectures()[architecture]
    hf_config = PretrainedConfig(architectures=[architecture], **config)
    # Fields of these configs that the handlers ask for beside those of interest.
    for field, value in (("use_bidirectional_attention", False), ("pooling", "avg")):
        if not hasattr(hf_config, field):
            setattr(hf_config, field, value)
    handler = MODELS_CONFIG_MAP.get(architecture)
    if handler is not None and _sets_is_causal(handler.__name__):
        handler.verify_and_update_model_config(
            SimpleNamespace(
                hf_config=hf_config,
                hf_text_config=hf_config,
                pooler_config=SimpleNamespace(),
            )
        )
    if architecture in ENCODERS:
        return True
    pooling = says(module, name, "default_pooling_type")
    if pooling == "CLS" and architecture not in DECODERS:
        return True
    if not getattr(hf_config, "is_causal", True):
        return True
    return says(module, name, "attn_type") == "encoder_only"


@functools.cache
def _sets_is_causal(handler: str) -> bool:
    tree = _tree("vllm.model_executor.models.config")
    found = next(
        n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == handler
    )
    return "is_causal" in ast.unparse(found)
