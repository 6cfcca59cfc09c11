#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Asks for known weaknesses of what the wheel depends on. Exit status: 0 none is
# known; 1 there is one; 3 the database could not be asked, and nothing is known.
set -euo pipefail
cd "$(dirname "$0")/.."

names=$(mktemp)
output=$(mktemp)
trap 'rm -f "$names" "$output"' EXIT
# What is installed of it here, with its version.
python - >"$names" <<'PY'
from importlib.metadata import requires, version

from packaging.requirements import Requirement

for line in requires("vllm-xpu-fp8-plugin") or []:
    asked = Requirement(line)
    if not asked.marker:
        print(f"{asked.name}=={version(asked.name)}")
PY
status=0
# --strict: a package that could not be looked up is no package without weaknesses.
pip-audit --strict --no-deps --disable-pip --progress-spinner off -r "$names" "$@" \
    >"$output" 2>&1 || status=$?
cat "$output"
if [ "$status" -ne 0 ] &&
    grep -qE "could not be audited|ConnectionError|ServiceError|ProxyError|Max retries" "$output"; then
    echo "audit: the database of weaknesses could not be asked, so nothing is known of:" >&2
    cat "$names" >&2
    exit 3
fi
exit "$status"
