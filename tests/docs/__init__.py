# SPDX-License-Identifier: Apache-2.0
"""The documentation: what of it is generated, and that it says what is true."""
