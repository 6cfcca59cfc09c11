# SPDX-License-Identifier: Apache-2.0
"""The checks, one module a section of the report."""
