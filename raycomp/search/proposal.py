"""One trial to run: a recipe, its place in the sweep, and the stage it is measured at."""

from dataclasses import dataclass
from typing import Any, Protocol, Self

from raycomp.evaluate.miou import Accuracy
from raycomp.recipe import Recipe
from raycomp.results.row import Row


@dataclass(frozen=True, slots=True)
class Proposal:
    """One trial to run."""

    number: int
    stage: str
    origin: str
    label: str
    recipe: Recipe
    thresholds: tuple[Accuracy, ...] = ()
    """What its first images must reach; see `raycomp.evaluate.measure`."""

    @property
    def key(self) -> tuple[str, str]:
        return self.stage, self.recipe.id

    def to_config(self) -> dict[str, Any]:
        """As the plain dictionary that Ray Tune hands to a trial."""
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
        """The proposal that `to_config` wrote."""
        recipe, thresholds = (
            Recipe.model_validate_json(config["recipe"]),
            tuple(Accuracy(*threshold) for threshold in config["thresholds"]),
        )
        return cls(config["number"], config["stage"], config["origin"], config["label"], recipe, thresholds)


class Source(Protocol):
    """Where a sweep's proposals come from: a search, or a list."""

    rows: dict[tuple[str, str], Row]
    """What is measured, by stage and recipe."""

    @property
    def finished(self) -> bool:
        """True when everything is handed out and told."""
        ...

    def next(self) -> Proposal | None:
        """The next proposal, or None while the open ones must finish first."""
        ...

    def tell(self, row: Row) -> None:
        """Take a finished row, complete or failed."""
        ...
