"""Find the setting of a method that costs what is asked for, by bisection over its strength."""

from collections.abc import Callable
from dataclasses import dataclass

from raycomp.recipe import Recipe

_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class CostMatch:
    """The two recipes, one strength apart, between which a target lies."""

    above: Recipe
    """The weakest that was tried and still costs more than the target; where even full strength does, that one."""
    above_cost: float
    below: Recipe | None
    """The next stronger one, which costs at most the target; None where full strength costs more."""
    below_cost: float

    def nearest(self, target: float, tolerance: float) -> tuple[Recipe, float]:
        """The recipe whose cost is nearer to the target, with its cost; never above target * (1 + tolerance),
        unless there is no other."""
        over, under = self.above_cost - target, target - self.below_cost
        if self.below is None or (over < under and over <= tolerance * target):
            return self.above, self.above_cost
        return self.below, self.below_cost


def match_cost(
    build: Callable[[float], Recipe], cost: Callable[[Recipe], float], target: float, close: float = 0.0
) -> CostMatch:
    """Halve the range of strengths, 0 (nothing) to 1 (the method's most), until no recipe lies between.

    Args:
        build: recipe of a strength; the cost falls with it.
        cost: in the unit of `target`.
        close: stop early at a cost this near to the target, relative to it; for costs that take long.
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
            continue
        if recipe == below:
            high = middle
            continue
        found = cost(recipe)
        if found <= target:
            high, below, below_cost = middle, recipe, found
        else:
            low, above, above_cost = middle, recipe, found
    return CostMatch(above, above_cost, below, below_cost)
