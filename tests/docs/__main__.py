# SPDX-License-Identifier: Apache-2.0
"""Write the parts of the documentation that are made from the code."""

from tests.docs.generated import write

if __name__ == "__main__":
    print("changed:", *(write() or ["nothing"]))
