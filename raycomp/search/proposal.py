"""One trial to run: a recipe, its place in the sweep, and the stage it is measured at."""

from dataclasses import dataclass
from typing import Self

from raycomp.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Proposal:
    """One trial to run."""

    number: int
    stage: str
    origin: str
    label: str
    recipe: Recipe

    @property
    def key(self) -> tuple[str, str]:
        return self.stage, self.recipe.id

    def to_config(self) -> dict[str, object]:
        """As the plain dictionary that Ray Tune hands to a trial."""
        return {
            "number": self.number,
            "stage": self.stage,
            "origin": self.origin,
            "label": self.label,
            "recipe": self.recipe.canonical_json(),
        }

    @classmethod
    def from_config(cls, config: dict[str, object]) -> Self:
        """The proposal that `to_config` wrote."""
        recipe = Recipe.model_validate_json(str(config["recipe"]))
        number = int(str(config["number"]))
        return cls(number, str(config["stage"]), str(config["origin"]), str(config["label"]), recipe)
