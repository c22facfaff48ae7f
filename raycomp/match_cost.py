# SPDX-License-Identifier: Apache-2.0
"""Match a method to a target cost by bisection over its strength."""

from collections.abc import Callable
from dataclasses import dataclass

from raycomp.recipe import Recipe

_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class CostMatch:
    """Two recipes of adjacent strengths whose costs enclose the target."""

    above: Recipe
    """The strongest recipe tried that costs more than the target; full strength if even that does."""
    above_cost: float
    below: Recipe | None
    """The next stronger recipe, which costs at most the target; None if full strength costs more."""
    below_cost: float

    def nearest(self, target: float, tolerance: float) -> tuple[Recipe, float]:
        """Return the recipe whose cost is nearer to the target, with its cost.

        It costs at most target * (1 + tolerance), unless full strength costs more.
        """
        over, under = self.above_cost - target, target - self.below_cost
        if self.below is None or (over < under and over <= tolerance * target):
            return self.above, self.above_cost
        return self.below, self.below_cost


def match_cost(
    build: Callable[[float], Recipe], cost: Callable[[Recipe], float], target: float, close: float = 0.0
) -> CostMatch:
    """Bisect strengths from 0 (none) to 1 (the method's maximum) until no recipe lies between the two ends.

    Args:
        build: Builds the recipe of a strength; its cost falls with the strength.
        cost: Returns the cost of a recipe in the unit of `target`.
        close: Relative distance to the target at which to stop early, for slow cost functions.
    """
    low, high = 0.0, 1.0
    above, below = build(low), build(high)
    above_cost, below_cost = cost(above), cost(below)
    if below_cost > target:
        return CostMatch(below, below_cost, None, float("inf"))
    for _ in range(_HALVINGS):
        if min(abs(above_cost - target), abs(below_cost - target)) <= close * target:
            break
        middle = (low + high) / 2
        recipe = build(middle)
        if recipe == above:
            low = middle
        elif recipe == below:
            high = middle
        elif (middle_cost := cost(recipe)) <= target:
            high, below, below_cost = middle, recipe, middle_cost
        else:
            low, above, above_cost = middle, recipe, middle_cost
    return CostMatch(above, above_cost, below, below_cost)
