# SPDX-License-Identifier: Apache-2.0
"""Proposals, and the interface of their sources."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from raycomp.recipe import Recipe
from raycomp.results.row import Row

if TYPE_CHECKING:  # importing torch takes seconds
    from raycomp.evaluate.miou import Accuracy


@dataclass(frozen=True, slots=True)
class Proposal:
    """One trial to run: a recipe, its place in the sweep, and the stage it is measured at."""

    number: int
    stage: str
    origin: str
    label: str
    recipe: Recipe
    thresholds: "tuple[Accuracy, ...]" = ()
    """The trial stops if its first images are below both values of one of these; see `raycomp.evaluate.measure`."""

    @property
    def key(self) -> tuple[str, str]:
        return self.stage, self.recipe.id


class Source(Protocol):
    """The source of a sweep's proposals: a search or a list."""

    rows: dict[tuple[str, str], Row]
    """Measured rows by stage and recipe id."""

    @property
    def finished(self) -> bool:
        """Whether every proposal was handed out and its row reported."""
        ...

    def next(self) -> Proposal | None:
        """Return the next proposal, or None while open ones must finish first."""
        ...

    def tell(self, row: Row) -> None:
        """Report a finished row, complete or failed."""
        ...
