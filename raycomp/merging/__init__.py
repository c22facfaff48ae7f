# SPDX-License-Identifier: Apache-2.0
"""Merge methods, one per file: settings, cost, merging, search dimensions, cost matching and names.

To add a method, write its class in a new file here (see `MergeMethod`) and add it to the union `Merge`. This package
imports torch only when a model merges.
"""

from typing import Annotated, get_args

from pydantic import Field

from raycomp.merging.algm import Algm
from raycomp.merging.base import MergeMethod
from raycomp.merging.cts import Cts
from raycomp.merging.tome import ToMe
from raycomp.merging.windows_tome import WindowsToMe

Merge = Annotated[Algm | Cts | ToMe | WindowsToMe, Field(discriminator="method")]
"""Settings of any method, as stored in a recipe."""
METHODS: dict[str, type[MergeMethod]] = {
    method.model_fields["method"].default: method for method in get_args(get_args(Merge)[0])
}
"""All methods by name."""

__all__ = ["METHODS", "Algm", "Cts", "Merge", "MergeMethod", "ToMe", "WindowsToMe"]
