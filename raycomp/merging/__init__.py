"""Merge methods, one a file: its settings, what it costs, how it merges, how it is searched, matched and named.

To add one, write its class beside these (see `MergeMethod`) and add it to the union `Merge`. Nothing here imports torch
until a model merges.
"""

from typing import Annotated, get_args

from pydantic import Field

from raycomp.merging.algm import Algm
from raycomp.merging.base import MergeMethod
from raycomp.merging.cts import Cts
from raycomp.merging.tome import ToMe

Merge = Annotated[Algm | Cts | ToMe, Field(discriminator="method")]
"""The settings of any method, as a recipe holds them."""
METHODS: dict[str, type[MergeMethod]] = {
    method.model_fields["method"].default: method for method in get_args(get_args(Merge)[0])
}
"""Every method by name."""

__all__ = ["METHODS", "Algm", "Cts", "Merge", "MergeMethod", "ToMe"]
