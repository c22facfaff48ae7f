# SPDX-License-Identifier: Apache-2.0
"""Rows by hand."""

from typing import Any

from raycomp.results.row import Row


def row(**changes: Any) -> Row:
    """A complete row of the search that says little else; `changes` are its columns."""
    return Row(**{"stage": "search", "status": "complete", "recipe_id": "a", "origin": "proposed"} | changes)
