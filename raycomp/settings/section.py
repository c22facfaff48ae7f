# SPDX-License-Identifier: Apache-2.0
"""The base class of all sections of a search space file, and the value types that they share."""

import re
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A section: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _share(value: object) -> object:
    """Parse `60%` or 0.6 as 0.6."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(%?)\s*", value) if isinstance(value, str) else None
    share = float(match[1]) / (100 if match[2] else 1) if match else value
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError("expected a share such as 40% or 0.4")
    return share


Share = Annotated[float, BeforeValidator(_share)]
"""A share in (0, 1]."""
Criterion = Literal["nvit", "taylor"]
"""Score of prunable units; `raycomp.compress.saliency` defines both."""


def _distinct(values: tuple[object, ...]) -> tuple[object, ...]:
    if len(set(values)) < len(values):
        raise ValueError("expected distinct values")
    return values


_Item = TypeVar("_Item")
Distinct = Annotated[tuple[_Item, ...], AfterValidator(_distinct)]
"""A list without repeated values."""
