# SPDX-License-Identifier: Apache-2.0
"""Releases of vLLM that something depends on. `doctor` reads them without vLLM."""

# Both are checked against tests/matrix/results.json.
OLDEST, NEWEST_TESTED = "0.20.2", "0.33.0"

# First releases without the fault that an adjustment of `compat` makes up for.
NO_CASCADE_ATTENTION = "0.32.0"
KEEPS_BIASES = "0.21.0"
