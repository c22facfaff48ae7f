# SPDX-License-Identifier: Apache-2.0
"""Recipes as points of an integer grid, and their projection onto a budget of GFLOPs or latency."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.merging import METHODS, MergeMethod
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.settings.training import PolicyConfig
from raycomp.shape import ModelShape, Size

if TYPE_CHECKING:  # imports torch, which checking input does not need
    from raycomp.evaluate.latency_table import LatencyTable

Params = dict[str, int]

_HALVINGS = 40  # far below the grid's resolution
_BLOCK_WIDTHS = ("heads", "qk", "v", "mlp")


@cache
def _block_widths(heads: int, qk: int, v: int, mlp: int) -> BlockWidths:
    """Build each combination once, since validation dominates the time to build a recipe."""
    return BlockWidths(heads=heads, qk=qk, v=v, mlp=mlp)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One integer of the grid, from low to high in steps; `full` is the end without compression."""

    name: str
    low: int
    high: int
    step: int
    full: int

    def compression(self, value: float) -> float:
        """Return the compression of a value: 0 at the full end, 1 at the other."""
        return abs(value - self.full) / (self.high - self.low)

    def at(self, compression: float) -> int:
        """Return the grid value with at least this compression."""
        steps = math.ceil(compression * (self.high - self.low) / self.step - 1e-9)
        distance = min(steps * self.step, self.high - self.low)
        return self.full - distance if self.full == self.high else self.full + distance

    def snap(self, value: float) -> int:
        """Return the nearest grid value."""
        steps = round((min(max(value, self.low), self.high) - self.low) / self.step)
        return min(self.low + steps * self.step, self.high)


@dataclass(frozen=True)
class Space:
    """The search space of recipes for one model and input size."""

    shape: ModelShape
    config: SpaceConfig
    image: Size
    latency: "LatencyTable | None" = None
    """Set if budgets limit latency in milliseconds instead of GFLOPs."""
    policy: str = PolicyConfig().kind
    """Kind of policy network, for merge methods that need one."""

    @classmethod
    def of(cls, config: SweepConfig, shape: ModelShape) -> Self:
        """Return the space of a sweep's settings, with budgets in GFLOPs."""
        return cls(shape, config.space, config.data.window_for(shape), policy=config.policy.kind)

    @cached_property
    def merging(self) -> MergeMethod:
        """The merge method whose ratios vary; its other settings follow its paper."""
        return METHODS[self.config.merge].standard(self.shape, self.policy)

    @cached_property
    def dimensions(self) -> dict[str, Dimension]:
        """All variable integers by name: `embed`, `heads_0`, ..., `merge_7`; the prefix before `_` is the kind."""
        dimensions: list[Dimension] = []
        full = {"embed": self.shape.width, "heads": self.shape.heads, "mlp": self.shape.mlp}
        full |= {"qk": self.shape.head_dim, "v": self.shape.head_dim}
        if self.config.embed is not None:
            dimensions += self._widths("embed", self.config.embed, full["embed"], ["embed"])
        for kind in _BLOCK_WIDTHS:
            names = [f"{kind}_{block}" for block in range(self.shape.depth)]
            if (allowed := getattr(self.config, kind)) is not None:
                dimensions += self._widths(kind, allowed, full[kind], names)
        if high := round(self.config.merge_high / self.config.merge_step):
            dimensions += [Dimension(name, 0, high, 1, 0) for name in self.merging.dimensions]
        return {dimension.name: dimension for dimension in dimensions}

    def _widths(self, kind: str, allowed: WidthRange, full: int, names: list[str]) -> list[Dimension]:
        if allowed.low > full:
            raise UserError(f"space.{kind}.low is {allowed.low}, but the model has {full}")
        if (full - allowed.low) % allowed.step:
            near = full - (full - allowed.low) // allowed.step * allowed.step
            raise UserError(
                f"space.{kind}.low {allowed.low} is not {full} minus steps of {allowed.step}; nearest: {near}"
            )
        if kind == "qk" and self.shape.position == "rotary" and (allowed.low % 2 or allowed.step % 2):
            raise UserError(f"space.qk: low {allowed.low}, step {allowed.step}: rotary position needs even numbers")
        return [Dimension(name, allowed.low, full, allowed.step, full) for name in names] if allowed.low < full else []

    def recipe(self, params: Params) -> Recipe:
        """Return the recipe at a point of the grid."""
        full = dense(self.shape)
        blocks = tuple(
            _block_widths(*(params.get(f"{kind}_{i}", getattr(block, kind)) for kind in _BLOCK_WIDTHS))
            for i, block in enumerate(full.blocks)
        )
        ratios = {name: params.get(name, 0) * self.config.merge_step for name in self.merging.dimensions}
        merge = self.merging.with_searched(ratios)
        return Recipe.model_validate({"embed": params.get("embed", full.embed), "blocks": blocks, "merge": merge})

    def params(self, recipe: Recipe) -> Params:
        """Return the grid point nearest to a recipe."""
        exact: dict[str, float] = {"embed": recipe.embed}
        for i, block in enumerate(recipe.blocks):
            exact |= {f"{kind}_{i}": getattr(block, kind) for kind in _BLOCK_WIDTHS}
        ratios = recipe.merge.searched if isinstance(recipe.merge, type(self.merging)) else {}
        exact |= {name: ratio / self.config.merge_step for name, ratio in ratios.items()}
        return {name: dimension.snap(exact.get(name, 0)) for name, dimension in self.dimensions.items()}

    def gflops(self, params: Params) -> float:
        """Return the GFLOPs of the recipe at a point."""
        return gflops(self.shape, self.recipe(params), self.image)

    def cost(self, recipe: Recipe) -> float:
        """Return the cost that budgets limit: GFLOPs, or the milliseconds predicted by the latency table."""
        return gflops(self.shape, recipe, self.image) if self.latency is None else self.latency.latency_ms(recipe)

    def _cost(self, params: Params) -> float:
        return self.cost(self.recipe(params))

    def outside(self, recipe: Recipe) -> str:
        """Describe the first field of a recipe outside the ranges of the space; empty if all are inside.

        Values between grid points are inside.
        """
        low = {kind: allowed.low for kind in ("embed", *_BLOCK_WIDTHS) if (allowed := getattr(self.config, kind))}
        unpruned = dense(self.shape)
        widths = {"embed": (recipe.embed, low.get("embed", unpruned.embed))}
        for i, (block, full) in enumerate(zip(recipe.blocks, unpruned.blocks, strict=True)):
            for kind in _BLOCK_WIDTHS:
                widths[f"blocks.{i}.{kind}"] = getattr(block, kind), low.get(kind, getattr(full, kind))
        for field, (width, minimum) in widths.items():
            if width < minimum:
                return f"{field} is {width}, the minimum is {minimum}"
        return "" if recipe.merge is None else self._merging_outside(recipe.merge)

    def _merging_outside(self, merge: MergeMethod) -> str:
        if merge.method != self.config.merge:
            return f"merge.method is {merge.method!r}, the space has only {self.config.merge!r}"
        if merge.adaptive:
            return "merging is adaptive, but a space has only fixed counts"
        if (highest := max(merge.searched.values())) > self.config.merge_high:
            return f"a merge ratio is {highest}, the maximum is {self.config.merge_high}"
        if other := set(merge.searched) - set(self.merging.dimensions):
            return f"it merges at {min(other)}, but the space only at {', '.join(self.merging.dimensions)}"
        return ""

    @cached_property
    def smallest(self) -> Params:
        """The point with maximum compression in every dimension."""
        return {name: dimension.at(1.0) for name, dimension in self.dimensions.items()}

    @cached_property
    def cheapest(self) -> Params:
        """The cheapest point: the smallest, unless merging or its policy network costs more than it saves."""
        if self.latency is None and not self.merging.needs_policy:
            return self.smallest
        merged = self.merging.dimensions
        fewer = [self.smallest | dict.fromkeys(merged[first:], 0) for first in range(len(merged) + 1)]
        points = [{name: point[name] for name in self.dimensions} for point in fewer]
        return min([{name: d.full for name, d in self.dimensions.items()}, *points], key=self._cost)

    def check_budget(self, budget: float) -> None:
        """Raise a UserError unless the cheapest recipe of the space costs at most `budget`."""
        minimum = self._cost(self.cheapest)
        if minimum > budget:
            full, unit = self.cost(dense(self.shape)), "GFLOPs" if self.latency is None else "ms"
            raise UserError(
                f"search.budget {budget / full:.1%} ({budget:.4g} {unit}) cannot be met: the cheapest recipe of the "
                f"space costs {minimum:.4g} {unit}; nearest: {math.ceil(1000 * minimum / full) / 10}%"
            )

    def project(self, params: Params, budget: float) -> Params:
        """Compress a point, keeping its proportions, until it costs at most `budget`.

        One factor scales the compression of every dimension. If that is not enough, all dimensions then move towards
        the cheapest point together. A point within the budget is returned unchanged.
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
            return self._weakest(scaled, 1.0, stretch, budget, self._cost)
        return self._weakest(blended, 0.0, 1.0, budget, self._cost)

    def draw(self, rng: np.random.Generator, low: float) -> Params:
        """Draw a random point whose cost is approximately log-uniform between `low` and the dense GFLOPs.

        Every kind of dimension gets a random strength, and each of its dimensions a random share of it. One draw in
        four only prunes, and one in four only merges.
        """
        target = math.exp(rng.uniform(math.log(low), math.log(self.gflops({}))))
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
        return self._weakest(scaled, 0.0, steepest, target, self.gflops)

    def narrowest(self, low: float) -> Params:
        """Return the point with minimum widths and equal merging in all blocks, down to `low` GFLOPs."""

        def merged(compression: float) -> Params:
            names = [name for name in self.merging.dimensions if name in self.dimensions]
            return self.smallest | {name: self.dimensions[name].at(compression) for name in names}

        return merged(0.0) if self.gflops(merged(0.0)) <= low else self._weakest(merged, 0.0, 1.0, low, self.gflops)

    def _weakest(
        self, at: Callable[[float], Params], low: float, high: float, budget: float, cost: Callable[[Params], float]
    ) -> Params:
        """Bisect a path for the least compressed point within the budget; its end, `high`, must be within it."""
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if cost(at(middle)) <= budget:
                high = middle
            else:
                low = middle
        return at(high)
