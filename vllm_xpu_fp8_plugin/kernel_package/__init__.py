# SPDX-License-Identifier: Apache-2.0
"""What the kernel package (vllm-xpu-kernels) holds, read without running it.

``installed``: the installed one's folder, version, libraries and ops' schemas.
``files``: one to look into, installed or a wheel. ``compiled_attention``: which
attention kernels a library holds, ``coverage``: which calls of it have none.
``python_layer``: what its Python does with a descale and with ``out``. ``left_out``:
what its kernels take and leave out.
"""
