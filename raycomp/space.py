"""Recipes as points of an integer grid, and their projection onto a budget of GFLOPs or of time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.merging import METHODS, MergeMethod
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.settings.training import PolicyConfig
from raycomp.shape import ModelShape, Size

if TYPE_CHECKING:  # needs torch, which telling bad input does without
    from raycomp.evaluate.latency_table import LatencyTable

Params = dict[str, int]

_STEPS = 40  # halvings: far below the grid's resolution
_BLOCK_WIDTHS = ("heads", "qk", "v", "mlp")


@cache
def _block_widths(heads: int, qk: int, v: int, mlp: int) -> BlockWidths:
    """Made once for each combination: checking them takes most of the time that a recipe takes."""
    return BlockWidths(heads=heads, qk=qk, v=v, mlp=mlp)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One integer of the grid, low to high in steps; `full` is the end that compresses nothing."""

    name: str
    low: int
    high: int
    step: int
    full: int

    def compression(self, value: float) -> float:
        """0 at the full end, 1 at the other."""
        return abs(value - self.full) / (self.high - self.low)

    def at(self, compression: float) -> int:
        """The grid value of at least this compression."""
        steps = math.ceil(compression * (self.high - self.low) / self.step - 1e-9)
        distance = min(steps * self.step, self.high - self.low)
        return self.full - distance if self.full == self.high else self.full + distance

    def snap(self, value: float) -> int:
        """The grid value nearest to any value."""
        steps = round((min(max(value, self.low), self.high) - self.low) / self.step)
        return min(self.low + steps * self.step, self.high)


@dataclass(frozen=True)
class Space:
    """The recipes of a search space for one model and input size."""

    shape: ModelShape
    config: SpaceConfig
    image: Size
    latency: "LatencyTable | None" = None
    """Where budgets limit milliseconds in place of GFLOPs."""
    policy: str = PolicyConfig().kind
    """Kind of the policy network, for a merge method that needs one."""

    @cached_property
    def merging(self) -> MergeMethod:
        """The merge method whose ratios vary; its other settings are those of its paper."""
        return METHODS[self.config.merge].standard(self.shape, self.policy)

    @cached_property
    def dimensions(self) -> dict[str, Dimension]:
        """Every integer that may vary, by name: `embed`, `heads_0`, ..., `merge_7`; its kind comes before the `_`."""
        found: list[Dimension] = []
        full = {"embed": self.shape.width, "heads": self.shape.heads, "mlp": self.shape.mlp}
        full |= {"qk": self.shape.head_dim, "v": self.shape.head_dim}
        if self.config.embed is not None:
            found += self._widths("embed", self.config.embed, full["embed"], ["embed"])
        for kind in _BLOCK_WIDTHS:
            names = [f"{kind}_{block}" for block in range(self.shape.depth)]
            if (allowed := getattr(self.config, kind)) is not None:
                found += self._widths(kind, allowed, full[kind], names)
        if most := round(self.config.merge_high / self.config.merge_step):
            found += [Dimension(name, 0, most, 1, 0) for name in self.merging.dimensions]
        return {dimension.name: dimension for dimension in found}

    def _widths(self, kind: str, allowed: WidthRange, full: int, names: list[str]) -> list[Dimension]:
        if allowed.low > full:
            raise UserError(f"space.{kind}.low is {allowed.low}; the model has {full}")
        if (full - allowed.low) % allowed.step:
            near = full - (full - allowed.low) // allowed.step * allowed.step
            raise UserError(
                f"space.{kind}.low {allowed.low} is not {full} minus steps of {allowed.step}; nearest: {near}"
            )
        return [Dimension(name, allowed.low, full, allowed.step, full) for name in names] if allowed.low < full else []

    def recipe(self, params: Params) -> Recipe:
        """The recipe at a point of the grid."""
        whole = dense(self.shape)
        blocks = tuple(
            _block_widths(*(params.get(f"{kind}_{i}", getattr(block, kind)) for kind in _BLOCK_WIDTHS))
            for i, block in enumerate(whole.blocks)
        )
        ratios = {name: params.get(name, 0) * self.config.merge_step for name in self.merging.dimensions}
        merge = self.merging.with_searched(ratios)
        return Recipe.model_validate({"embed": params.get("embed", whole.embed), "blocks": blocks, "merge": merge})

    def params(self, recipe: Recipe) -> Params:
        """The point of the grid nearest to a recipe."""
        exact: dict[str, float] = {"embed": recipe.embed}
        for i, block in enumerate(recipe.blocks):
            exact |= {f"{kind}_{i}": getattr(block, kind) for kind in _BLOCK_WIDTHS}
        ratios = recipe.merge.searched if isinstance(recipe.merge, type(self.merging)) else {}
        exact |= {name: ratio / self.config.merge_step for name, ratio in ratios.items()}
        return {name: dimension.snap(exact.get(name, 0)) for name, dimension in self.dimensions.items()}

    def gflops(self, params: Params) -> float:
        """GFLOPs of the recipe at a point."""
        return gflops(self.shape, self.recipe(params), self.image)

    def cost(self, recipe: Recipe) -> float:
        """What budgets limit: GFLOPs, or the milliseconds that the latency table predicts."""
        return gflops(self.shape, recipe, self.image) if self.latency is None else self.latency.latency_ms(recipe)

    def _cost(self, params: Params) -> float:
        return self.cost(self.recipe(params))

    def outside(self, recipe: Recipe) -> str:
        """What of a recipe lies outside the ranges of the space, on the grid or between; empty for nothing."""
        low = {kind: allowed.low for kind in ("embed", *_BLOCK_WIDTHS) if (allowed := getattr(self.config, kind))}
        whole = dense(self.shape)
        widths = {"embed": (recipe.embed, low.get("embed", whole.embed))}
        for i, (block, full) in enumerate(zip(recipe.blocks, whole.blocks, strict=True)):
            for kind in _BLOCK_WIDTHS:
                widths[f"blocks.{i}.{kind}"] = getattr(block, kind), low.get(kind, getattr(full, kind))
        for field, (width, least) in widths.items():
            if width < least:
                return f"{field} is {width}, the least is {least}"
        return "" if recipe.merge is None else self._merges_outside(recipe.merge)

    def _merges_outside(self, merge: MergeMethod) -> str:
        if merge.method != self.config.merge:
            return f"merge.method is {merge.method!r}, the only one is {self.config.merge!r}"
        if merge.adaptive:
            return "merging is adaptive, and a space has fixed counts alone"
        if (most := max(merge.searched.values())) > self.config.merge_high:
            return f"a merge ratio is {most}, the highest is {self.config.merge_high}"
        if other := set(merge.searched) - set(self.merging.dimensions):
            return f"it merges at {min(other)}, a space only at {', '.join(self.merging.dimensions)}"
        return ""

    @cached_property
    def smallest(self) -> Params:
        """The point that compresses everything as far as it goes."""
        return {name: dimension.at(1.0) for name, dimension in self.dimensions.items()}

    @cached_property
    def cheapest(self) -> Params:
        """The point that costs least: the smallest, unless merging costs more, in time or by a policy."""
        if self.latency is None and not self.merging.needs_policy:
            return self.smallest
        merged = self.merging.dimensions
        early = [self.smallest | dict.fromkeys(merged[first:], 0) for first in range(len(merged) + 1)]
        known = [{name: point[name] for name in self.dimensions} for point in early]
        return min([{name: d.full for name, d in self.dimensions.items()}, *known], key=self._cost)

    def check_budget(self, budget: float) -> None:
        """Raise UserError unless the cheapest recipe of the space costs at most `budget`."""
        least = self._cost(self.cheapest)
        if least > budget:
            whole, unit = self.cost(dense(self.shape)), "GFLOPs" if self.latency is None else "ms"
            raise UserError(
                f"search.budget {budget / whole:.1%} ({budget:.4g} {unit}) cannot be met: the cheapest recipe of the "
                f"space costs {least:.4g} {unit}; nearest: {math.ceil(1000 * least / whole) / 10}%"
            )

    def project(self, params: Params, budget: float) -> Params:
        """Compress a point, keeping its shape, until it costs at most `budget`.

        Every dimension's compression is scaled by one factor; where that is not enough, all move
        on towards the cheapest point together. A point within the budget comes back as it is.
        """
        if self._cost(params) <= budget:
            return params
        start = {name: d.compression(params[name]) for name, d in self.dimensions.items()}
        end = {name: d.compression(self.cheapest[name]) for name, d in self.dimensions.items()}
        largest = max(start.values(), default=0.0)
        stretch = 1 / min((c for c in start.values() if c > 0), default=1.0)

        def scaled(factor: float) -> Params:
            return {name: d.at(min(1.0, start[name] * factor)) for name, d in self.dimensions.items()}

        def blended(share: float) -> Params:
            full = {name: min(1.0, c * stretch) for name, c in start.items()}
            return {name: d.at((1 - share) * full[name] + share * end[name]) for name, d in self.dimensions.items()}

        if largest > 0 and self._cost(scaled(stretch)) <= budget:
            return self._least(scaled, 1.0, stretch, budget, self._cost)
        return self._least(blended, 0.0, 1.0, budget, self._cost)

    def draw(self, rng: np.random.Generator, least: float) -> Params:
        """A random point whose cost is log-uniform between `least` and the dense GFLOPs, as near as it can be.

        Every kind of dimension is compressed at a random strength, and each of its dimensions at a random share
        of that; one draw in four prunes alone, and one in four merges alone.
        """
        target = math.exp(rng.uniform(math.log(least), math.log(self.gflops({}))))
        only = rng.integers(4)
        strength = {kind: rng.uniform() for kind in ("embed", *_BLOCK_WIDTHS, "merge")}
        shares = {}
        for name in self.dimensions:
            kind = name.partition("_")[0]
            left_out = (only == 0 and kind == "merge") or (only == 1 and kind != "merge")
            shares[name] = 0.0 if left_out else strength[kind] * rng.uniform()
        largest = max(shares.values(), default=0.0) or 1.0

        def scaled(factor: float) -> Params:
            return {name: d.at(min(1.0, shares[name] / largest * factor)) for name, d in self.dimensions.items()}

        steepest = 1 / min((share / largest for share in shares.values() if share > 0), default=1.0)
        return self._least(scaled, 0.0, steepest, target, self.gflops)

    def narrowest(self, least: float) -> Params:
        """All widths at their low ends, and equal merging in all blocks down to `least` GFLOPs."""

        def merged(compression: float) -> Params:
            names = [name for name in self.merging.dimensions if name in self.dimensions]
            return self.smallest | {name: self.dimensions[name].at(compression) for name in names}

        return merged(0.0) if self.gflops(merged(0.0)) <= least else self._least(merged, 0.0, 1.0, least, self.gflops)

    def _least(
        self, at: Callable[[float], Params], low: float, high: float, budget: float, cost: Callable[[Params], float]
    ) -> Params:
        """The point of least compression on a path whose end, `high`, is within the budget."""
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if cost(at(middle)) <= budget:
                high = middle
            else:
                low = middle
        return at(high)
