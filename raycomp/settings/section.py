"""What all sections of a search space share: how they are read, and the kinds of values."""

import re
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from raycomp.merging import METHODS

if TYPE_CHECKING:
    MergeName: TypeAlias = str
    BenchmarkName: TypeAlias = str
else:  # what is allowed follows from the methods there are
    MergeName = Literal[tuple(METHODS)]
    BenchmarkName = Literal[(*METHODS, "nvit", *(f"nvit+{name}" for name in METHODS))]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _share(value: object) -> object:
    """Read `60%` as 0.6."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(%?)\s*", value) if isinstance(value, str) else None
    share = float(match[1]) / (100 if match[2] else 1) if match else value
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError("wanted is a share of dense, as in 40% or 0.4")
    return share


Share = Annotated[float, BeforeValidator(_share)]


Criterion = Literal["nvit", "taylor"]


"""How prunable units are scored; `raycomp.compress.saliency` defines both."""


def _distinct(values: tuple[object, ...]) -> tuple[object, ...]:
    if len(set(values)) < len(values):
        raise ValueError("expected distinct values")
    return values


_Item = TypeVar("_Item")


Distinct = Annotated[tuple[_Item, ...], AfterValidator(_distinct)]
