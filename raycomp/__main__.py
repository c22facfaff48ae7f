# SPDX-License-Identifier: Apache-2.0
"""`python -m raycomp` is the `raycomp` command."""

from raycomp.cli import run

run()
