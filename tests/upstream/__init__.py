# SPDX-License-Identifier: Apache-2.0
"""The patches for upstream, applied to the installed vLLM."""
