# SPDX-License-Identifier: Apache-2.0
"""Builds models with the real vLLM and prints the layers that they have.

Run as a script: it takes one JSON object, name -> arguments of `EngineArgs`, and
prints one, name -> what `_layers` returns. Weights are made and never filled.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_MARK = "BUILT "


def build(models: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the layers of each model, all built in one process."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(models)],
        capture_output=True,
        text=True,
        timeout=540,
        env={**os.environ, "VLLM_XPU_FP8_PLUGIN": "emulate"},
        cwd=Path(__file__).parent.parent.parent,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith(_MARK)]
    assert lines, done.stderr[-4000:]
    result: dict[str, dict[str, Any]] = json.loads(lines[-1][len(_MARK) :])
    return result


def _layers(arguments: dict[str, Any]) -> dict[str, Any]:
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.layers.attention import MMEncoderAttention
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    defaults = {"skip_tokenizer_init": True, "max_model_len": 64, "dtype": "bfloat16"}
    config = EngineArgs(**defaults | arguments).create_engine_config()
    with set_current_vllm_config(config), set_default_torch_dtype(torch.bfloat16):
        _join()
        model = initialize_model(config)
    attention, linear = [], {}
    for name, module in model.named_modules():
        if isinstance(module, AttentionLayerBase) and hasattr(module, "impl"):
            impl = module.impl
            attention.append(
                {
                    "role": str(impl.attn_type),
                    "head_size": impl.head_size,
                    "num_heads": impl.num_heads,
                    "num_kv_heads": impl.num_kv_heads,
                    "windowed": tuple(impl.sliding_window) != (-1, -1),
                    "softcap": impl.logits_soft_cap or None,
                    "alibi": impl.alibi_slopes is not None,
                    "sinks": impl.sinks is not None,
                    "backend": type(impl).__name__,
                }
            )
        elif isinstance(module, MMEncoderAttention):
            attention.append(
                {
                    "role": "media",
                    "head_size": module.head_size,
                    "num_heads": module.num_heads,
                    "num_kv_heads": module.num_kv_heads,
                    "windowed": False,
                    "softcap": None,
                    "alibi": False,
                    "sinks": False,
                    "backend": module.attn_backend.name,
                }
            )
        elif isinstance(module, LinearBase):
            method = type(module.quant_method).__name__
            linear[name] = {
                "fp8": "Unquantized" not in method,
                "values": module.input_size * module.output_size,
            }
    return {"attention": attention, "linear": linear}


def _join() -> None:
    from vllm.distributed import parallel_state

    if not parallel_state.model_parallel_is_initialized():
        with tempfile.NamedTemporaryFile(delete=False) as file:
            parallel_state.init_distributed_environment(
                1, 0, f"file://{file.name}", 0, "gloo"
            )
        parallel_state.initialize_model_parallel(1, 1)


def _main(models: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    from vllm.model_executor.models import registry

    # vLLM looks at each architecture in a process of its own, 8 s each.
    registry._run_in_subprocess = lambda function: function()
    built = {}
    for name, arguments in models.items():
        try:
            built[name] = _layers(arguments)
        except Exception as e:
            built[name] = {"error": f"{type(e).__name__}: {e}"[:2000]}
    return built


if __name__ == "__main__":
    print(f"\n{_MARK}{json.dumps(_main(json.loads(sys.argv[1])))}", flush=True)
