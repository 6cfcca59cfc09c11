#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the contract suite on the newest vLLM and kernels, and opens an issue if it
# fails. VLLM and KERNELS name other releases; MATRIX is what runs the suite.
set -euo pipefail
cd "$(dirname "$0")/.."

newest() {
    local version
    version=$(python -m pip index versions "$1" 2>/dev/null | sed -n '1s/.*(\(.*\))$/\1/p')
    [ -n "$version" ] || { echo "newest: the index names no release of $1" >&2; exit 2; }
    echo "$version"
}
vllm=${VLLM:-$(newest vllm)}
kernels=${KERNELS:-$(newest vllm-xpu-kernels)}
folder=.matrix/newest
title="vLLM $vllm with vllm-xpu-kernels $kernels: the contract suite fails"

read -ra matrix <<<"${MATRIX:-python -m tests.matrix}"
status=0
"${matrix[@]}" --vllm "$vllm" --kernels "$kernels" --rerank --output "$folder" || status=$?
# 1 is a failure; anything else is a run that came to no result.
if [ "$status" -eq 1 ] && command -v gh >/dev/null && [ -n "${GH_TOKEN:-}" ]; then
    # One issue for a pair of releases, however many weeks it is open.
    open=$(gh issue list --state open --search "in:title \"$title\"" --json number --jq length)
    if [ "$open" = 0 ]; then
        gh issue create --title "$title" --label release --body-file "$folder/results.md"
    fi
fi
exit "$status"
