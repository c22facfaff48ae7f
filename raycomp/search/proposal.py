# SPDX-License-Identifier: Apache-2.0
"""One trial to run: a recipe, its place in the sweep, and the stage it is measured at."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from raycomp.recipe import Recipe
from raycomp.results.row import Row

if TYPE_CHECKING:  # imports torch, which commands do without
    from raycomp.evaluate.miou import Accuracy


@dataclass(frozen=True, slots=True)
class Proposal:
    """One trial to run."""

    number: int
    stage: str
    origin: str
    label: str
    recipe: Recipe
    thresholds: "tuple[Accuracy, ...]" = ()
    """Accuracies its first images must reach; see `raycomp.evaluate.measure`."""

    @property
    def key(self) -> tuple[str, str]:
        return self.stage, self.recipe.id

    def to_config(self) -> dict[str, Any]:
        """Return the proposal as the plain dictionary that Ray Tune passes to a trial."""
        return {
            "number": self.number,
            "stage": self.stage,
            "origin": self.origin,
            "label": self.label,
            "recipe": self.recipe.canonical_json(),
            "thresholds": [list(threshold) for threshold in self.thresholds],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Restore a proposal from the dictionary of `to_config`."""
        from raycomp.evaluate.miou import Accuracy

        recipe = Recipe.model_validate_json(config["recipe"])
        thresholds = tuple(Accuracy(*threshold) for threshold in config["thresholds"])
        return cls(config["number"], config["stage"], config["origin"], config["label"], recipe, thresholds)


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
