#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what was built, in environments of their own, and uses it:
#   scripts/smoke_dist.sh DIR
# PYTHON makes the environments. SITE is a folder of packages, pip and setuptools among
# them, that they see as well: nothing is then fetched.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
folder=$(cd "$1" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# As a user has it at first, whatever the caller runs.
unset VLLM_XPU_FP8_PLUGIN
# Not in the checkout, whose package would be found in place of the installed one.
cd "$scratch"

for file in "$folder"/*.whl "$folder"/*.tar.gz; do
    [ -e "$file" ] || { echo "smoke_dist: no wheel and sdist in $folder" >&2; exit 2; }
    rm -rf env
    bin=$scratch/env/bin
    flags=()
    if [ -n "${SITE:-}" ]; then
        "${PYTHON:-python3}" -m venv --without-pip env
        flags=(--no-deps --no-build-isolation)
        path=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        echo "$SITE" >"$path/site.pth"
    else
        "${PYTHON:-python3}" -m venv env
    fi
    "$bin/python" -m pip install --disable-pip-version-check -q "${flags[@]}" "$file"
    "$bin/python" -I - <<'PY'
import importlib.metadata as metadata
import pathlib
import sys

import vllm_xpu_fp8_plugin as package

# Neither the checkout's, nor one that SITE has.
assert pathlib.Path(package.__file__).is_relative_to(sys.prefix), package.__file__
assert metadata.version("vllm-xpu-fp8-plugin") == package.__version__
(point,) = metadata.entry_points(group="vllm.platform_plugins", name="xpu_fp8")
assert point.load()() is None, "off by default"
PY
    version=$("$bin/vllm-xpu-fp8" --version)
    "$bin/vllm-xpu-fp8" check --help >/dev/null
    if [ -z "${SITE:-}" ]; then
        # Without vLLM and torch it says that these are missing: a problem, 1.
        status=0
        "$bin/vllm-xpu-fp8" doctor --json >doctor.json || status=$?
        [ "$status" -eq 1 ] || { echo "smoke_dist: doctor ended with $status" >&2; exit 1; }
        "$bin/python" -c 'import json; assert json.load(open("doctor.json"))["sections"]'
    fi
    echo "$(basename "$file"): $version installed and used"
done
