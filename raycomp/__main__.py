# SPDX-License-Identifier: Apache-2.0
"""`python -m raycomp` is the `raycomp` command."""

from raycomp.cli import run

if __name__ == "__main__":  # tools import every module of a package
    run()
