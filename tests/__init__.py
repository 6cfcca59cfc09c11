# SPDX-License-Identifier: Apache-2.0
"""The suite, and what measures: none of it is told to vLLM's makers."""

import os

# For an engine's statistics vLLM starts a process, and a connection to the outside.
os.environ["DO_NOT_TRACK"] = "1"
