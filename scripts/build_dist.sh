#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds wheel and sdist into a folder and checks them: scripts/build_dist.sh DIR
# BUILD_FLAGS go to `python -m build`; --no-isolation builds without a network.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

rm -f "$folder"/*.whl "$folder"/*.tar.gz
# The wheel is built from the sdist, so that a file which the sdist lacks is seen.
read -ra flags <<<"${BUILD_FLAGS:-}"
python -m build --outdir "$folder" "${flags[@]}" . >"$folder/build.log" 2>&1 ||
    { cat "$folder/build.log" >&2; exit 1; }
rm "$folder/build.log"
twine check --strict "$folder"/*
check-wheel-contents "$folder"/*.whl
