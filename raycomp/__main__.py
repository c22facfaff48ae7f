"""`python -m raycomp` is the `raycomp` command."""

from raycomp.cli import run

run()
