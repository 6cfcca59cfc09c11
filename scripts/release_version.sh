#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks that a tag, the version and the changelog agree: scripts/release_version.sh v0.2.0
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 TAG" >&2; exit 2; }
tag=$1
cd "$(dirname "$0")/.."

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' vllm_xpu_fp8_plugin/__init__.py)
newest=$(sed -n 's/^## \[\{0,1\}\([0-9][^] ]*\).*/\1/p' CHANGELOG.md | head -n 1)
dated=$(grep -cE "^## \[?${version//./\\.}\]? - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md || true)
[ "$tag" = "v$version" ] ||
    { echo "release: the tag is $tag, and the version $version asks for v$version" >&2; exit 1; }
[ "$newest" = "$version" ] ||
    { echo "release: CHANGELOG.md begins with $newest, and the version is $version" >&2; exit 1; }
[ "$dated" = 1 ] ||
    { echo "release: CHANGELOG.md has no line '## $version - YYYY-MM-DD'" >&2; exit 1; }
echo "$version"
