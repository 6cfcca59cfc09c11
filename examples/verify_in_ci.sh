#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fails a CI job if FP8 changes a model's answers:
#   examples/verify_in_ci.sh MODEL [flags of vllm-xpu-fp8 verify]
# REPORT is the folder to keep as the job's artifact. Where it is kept from job to job
# as well (a cache), the reference arm runs only once a model, data set and vLLM.
set -euo pipefail

if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
    echo "usage: $0 MODEL [flags of vllm-xpu-fp8 verify]" >&2
    exit 2
fi
model=$1
shift
report=${REPORT:-verify-report}
if [ -z "${VLLM_XPU_FP8_PLUGIN:-}" ]; then
    # From another folder: `python -c` would take a torch.py that lies in this one.
    VLLM_XPU_FP8_PLUGIN=$(cd / && python -c 'import torch; print("1" if torch.xpu.is_available() else "emulate")')
fi
export VLLM_XPU_FP8_PLUGIN

status=0
text=$(vllm-xpu-fp8 verify --model "$model" --output "$report" "$@") || status=$?
printf '%s\n' "$text"
# On GitHub this file becomes the job's summary page.
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
    # shellcheck disable=SC2016 # the backticks are Markdown's
    printf '```text\n%s\n```\n' "$text" >>"$GITHUB_STEP_SUMMARY"
fi
case $status in
0) ;;
1) echo "verify_in_ci: FP8 changes the answers; see $report/report.png" >&2 ;;
*) echo "verify_in_ci: verify itself could not run (exit status $status)" >&2 ;;
esac
exit "$status"
