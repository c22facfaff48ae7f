# SPDX-License-Identifier: Apache-2.0
"""Recipes as points of an integer grid, and their projection onto a budget of GFLOPs or latency."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Self

import numpy as np

from raycomp import ranges
from raycomp.bounds import Bound, bounds
from raycomp.config import SweepConfig
from raycomp.dimension import Dimension
from raycomp.errors import UserError
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.flops import gflops
from raycomp.merging import METHODS, MergeMethod
from raycomp.projection import Params as Params
from raycomp.projection import projected, weakest
from raycomp.ranges import BLOCK_WIDTHS, PRECISION, range_in
from raycomp.recipe import BlockWidths, Recipe, RecipePrecision, dense
from raycomp.settings.amounts import Limit, allowance
from raycomp.settings.space_and_search import SpaceConfig
from raycomp.settings.training import PolicyConfig
from raycomp.shape import ModelShape, Size


@cache
def _block_widths(heads: int, qk: int, v: int, mlp: int) -> BlockWidths:
    """Build each combination once, since validation dominates the time to build a recipe."""
    return BlockWidths(heads=heads, qk=qk, v=v, mlp=mlp)


def _gone_with(name: str) -> tuple[str, ...]:
    """Return the kinds of widths that are 0 where the sublayer of a dimension is dropped."""
    return ("mlp",) if name.startswith("mlp") else ("heads", "qk", "v")


def _in_first(name: str, blocks: int) -> bool:
    """Return whether a dimension is an attention of the first blocks."""
    kind, _, block = name.partition("_")
    return kind == "heads" and int(block) < blocks


@dataclass(frozen=True)
class Space:
    """The search space of recipes for one model and input size."""

    shape: ModelShape
    config: SpaceConfig
    image: Size
    latency: LatencyTable | None = None
    """Set if budgets limit latency in milliseconds instead of GFLOPs."""
    policy: str = PolicyConfig().kind
    """Kind of policy network, for merge methods that need one."""
    limits: tuple[Bound, ...] = ()
    """Limits that recipes keep besides the budget."""

    @classmethod
    def of(cls, config: SweepConfig, shape: ModelShape, latency: LatencyTable | None = None) -> Self:
        """Return the space of a sweep's settings.

        Without a latency table, budgets are in GFLOPs, and a limit on time is left out.
        """
        by_time = latency if config.search.cost_metric == "latency" else None
        limits, image = bounds(config, shape, latency), config.data.window_for(shape)
        return cls(shape, config.space, image, by_time, config.policy.kind, limits)

    @cached_property
    def merging(self) -> MergeMethod:
        """The merge method whose ratios vary; its other settings follow its paper."""
        return METHODS[self.config.merge].standard(self.shape, self.policy)

    @cached_property
    def dimensions(self) -> dict[str, Dimension]:
        """All variable integers by name: `embed`, `heads_0`, ..., `merge_7`; the prefix before `_` is the kind."""
        return {one.name: one for one in ranges.dimensions(self.shape, self.config, self.merging)}

    @cached_property
    def _kept(self) -> dict[str, Dimension]:
        return {name: dimension.kept for name, dimension in self.dimensions.items()}

    @cached_property
    def _dropping(self) -> Params:
        """The values that drop a sublayer, by dimension: the MLPs first, and each kind from the last block on."""
        drops = [(name, d.low) for name, d in self.dimensions.items() if d.drop]
        return dict(reversed(drops))

    def recipe(self, params: Params) -> Recipe:
        """Return the recipe at a point of the grid."""
        full = dense(self.shape)
        dropped = {name for name, low in self._dropping.items() if params.get(name) == low}
        if dropped:
            params = params | {f"{one}_{name.partition('_')[2]}": 0 for name in dropped for one in _gone_with(name)}
        blocks = tuple(
            _block_widths(*(params.get(f"{kind}_{i}", getattr(block, kind)) for kind in BLOCK_WIDTHS))
            for i, block in enumerate(full.blocks)
        )
        ratios = {name: params.get(name, 0) * self.config.merge_step for name in self.merging.dimensions}
        merge = self.merging.with_searched(ratios)
        if dropped:
            merge = merge.without({i for i, block in enumerate(blocks) if not block.heads})
        embed, precision = params.get("embed", full.embed), self._precision(params)
        return Recipe.model_validate({"embed": embed, "blocks": blocks, "merge": merge, "precision": precision})

    def _precision(self, params: Params) -> RecipePrecision:
        if PRECISION in self.dimensions:
            return "int8" if params.get(PRECISION) else "fp32"
        return self.config.precision[0]

    def params(self, recipe: Recipe) -> Params:
        """Return the grid point nearest to a recipe."""
        exact: dict[str, float] = {"embed": recipe.embed, PRECISION: recipe.precision == "int8"}
        for i, block in enumerate(recipe.blocks):
            exact |= {f"{kind}_{i}": getattr(block, kind) for kind in BLOCK_WIDTHS}
        merge = self.merging.expressed(recipe.merge)
        exact |= {name: ratio / self.config.merge_step for name, ratio in (merge.searched if merge else {}).items()}
        return {name: dimension.snap(exact.get(name, 0)) for name, dimension in self.dimensions.items()}

    def canonical(self, params: Params) -> Params:
        """Return the one point that stands for all points of the same recipe.

        A dropped attention has the smallest QK and V widths, and no merging if that needs its keys.
        """
        point = dict(params)
        for name, low in self._dropping.items():
            kind, _, block = name.partition("_")
            if kind == "heads" and point.get(name) == low:
                unused = ("qk", "v", "merge") if self.merging.compares_keys else ("qk", "v")
                point |= {one: self.dimensions[one].low for k in unused if (one := f"{k}_{block}") in self.dimensions}
        return point

    def gflops(self, params: Params) -> float:
        """Return the GFLOPs of the recipe at a point."""
        return gflops(self.shape, self.recipe(params), self.image)

    def cost(self, recipe: Recipe) -> float:
        """Return the cost that budgets limit: GFLOPs, or the milliseconds predicted by the latency table."""
        return gflops(self.shape, recipe, self.image) if self.latency is None else self.latency.latency_ms(recipe)

    def _cost(self, params: Params) -> float:
        return self.cost(self.recipe(params))

    def budget_of(self, limit: Limit) -> float:
        """Return the maximum cost that a setting such as 40% or 8 ms allows."""
        return allowance(limit, self.cost(dense(self.shape)))

    def load(self, recipe: Recipe, budget: float) -> float:
        """Return the largest of a recipe's costs, each relative to its limit; it keeps all limits if that is at most 1.

        Args:
            budget: Maximum of `cost`; the other limits are those of the space.
        """
        return max(self.cost(recipe) / budget, self.limits_load(recipe))

    def allows(self, recipe: Recipe, budget: float) -> bool:
        """Return whether a recipe costs at most `budget` and keeps the limits of the space."""
        return self.cost(recipe) <= budget and self.keeps_limits(recipe)

    def fits(self, params: Params, budget: float) -> bool:
        """Return whether the recipe at a point costs at most `budget` and keeps the limits of the space."""
        return self.allows(self.recipe(params), budget)

    def keeps_limits(self, recipe: Recipe) -> bool:
        """Return whether a recipe keeps the limits of the space, whatever the budget."""
        return all(bound.holds(recipe) for bound in self.limits)

    def limits_load(self, recipe: Recipe) -> float:
        """Return the largest of a recipe's costs that the space limits, each relative to its limit."""
        return max((bound.load(recipe) for bound in self.limits), default=0.0)

    def sparing(self, recipe: Recipe) -> Recipe:
        """Return a recipe as near as fixed blocks and ranges of single blocks allow; see `ranges.sparing`."""
        return ranges.sparing(self.shape, self.config, recipe, self.image)

    def outside(self, recipe: Recipe) -> str:
        """Describe the first field of a recipe outside the ranges of the space; empty if all are inside.

        Values between grid points are inside, and so is any precision: an elastic model is trained in float32.
        """
        unpruned, embed = dense(self.shape), self.config.embed
        widths = {"embed": (recipe.embed, embed.low if embed is not None else unpruned.embed)}
        for i, (block, full) in enumerate(zip(recipe.blocks, unpruned.blocks, strict=True)):
            allowed = {kind: range_in(self.config, kind, i) for kind in BLOCK_WIDTHS}
            droppable = {kind for kind, one in allowed.items() if one is not None and one.drop}
            gone = {kind for kind in droppable if not getattr(block, kind)}
            for kind, one in allowed.items():
                if ("mlp" if kind == "mlp" else "heads") not in gone:
                    widths[f"blocks.{i}.{kind}"] = getattr(block, kind), one.low if one else getattr(full, kind)
        for field, (width, minimum) in widths.items():
            if width < minimum:
                return f"{field} is {width}, the minimum is {minimum}"
        return "" if recipe.merge is None else self._merging_outside(recipe.merge)

    def _merging_outside(self, merge: MergeMethod) -> str:
        if (own := self.merging.expressed(merge)) is None:
            return f"merge.method is {merge.method!r}, the space has only {self.config.merge!r}"
        if own.adaptive:
            return "merging is adaptive, but a space has only fixed counts"
        if (highest := max(own.searched.values())) > self.config.merge_high:
            return f"a merge ratio is {highest}, the maximum is {self.config.merge_high}"
        free = [name for name in self.merging.dimensions if name in self.dimensions]
        if other := {name for name, ratio in own.searched.items() if ratio} - set(free):
            return f"it merges at {min(other)}, but the space only at {', '.join(free)}"
        return ""

    @cached_property
    def smallest(self) -> Params:
        """The point with maximum compression in every dimension, but every sublayer kept."""
        return {name: dimension.at(1.0) for name, dimension in self._kept.items()}

    @property
    def corners(self) -> list[Params]:
        """Points that together reach the far end of every dimension."""
        return [self.smallest, self.canonical(self.smallest | self._dropping)] if self._dropping else [self.smallest]

    @cached_property
    def cheapest(self) -> Params:
        """The cheapest point within the limits: the smallest, unless sublayers can be dropped or merging does not pay.

        Every MLP is dropped that can be. An attention, which merging may need, is worth its cost in the first blocks.
        """
        spends = self.latency is not None or any(bound.name in ("ms", "memory") for bound in self.limits)
        pays = not spends and not self.merging.needs_policy
        if pays and not self._dropping:
            return self.smallest
        starts = [
            self.smallest | {name: low for name, low in self._dropping.items() if not _in_first(name, attending)}
            for attending in range(self.shape.depth + 1)
        ]
        merged = self.merging.dimensions
        firsts = [len(merged)] if pays else range(len(merged) + 1)
        fewer = [start | dict.fromkeys(merged[first:], 0) for start in starts for first in firsts]
        fewer += [point | {PRECISION: 0} for point in fewer if PRECISION in point]  # INT8 may take longer
        points = [self.canonical({name: point[name] for name in self.dimensions}) for point in fewer]
        return min([{name: d.full for name, d in self.dimensions.items()}, *points], key=self._rank)

    def _rank(self, point: Params) -> tuple[float, float]:
        """Order points by how much they exceed the limits of the space, then by cost."""
        recipe = self.recipe(point)
        return max(1.0, self.limits_load(recipe)), self.cost(recipe)

    def check_budget(self, budget: float, field: str = "search.budget") -> None:
        """Raise a UserError unless a recipe of the space costs at most `budget` and keeps the limits of the space.

        `field` names the budget in the message.
        """
        cheapest = self.recipe(self.cheapest)
        for bound in self.limits:
            if not bound.holds(cheapest):
                raise UserError(bound.unmet(cheapest))
        minimum = self.cost(cheapest)
        if minimum > budget:
            full, unit = self.cost(dense(self.shape)), "GFLOPs" if self.latency is None else "ms"
            raise UserError(
                f"{field} {budget / full:.1%} ({budget:.4g} {unit}) cannot be met: the cheapest recipe of the "
                f"space costs {minimum:.4g} {unit}; nearest: {math.ceil(1000 * minimum / full) / 10}%"
            )

    def project(self, params: Params, budget: float) -> Params:
        """Compress a point, keeping its proportions, until it costs at most `budget` and keeps the limits of the space.

        One factor scales the compression of every dimension. If that is not enough, all dimensions then move towards
        the cheapest point together, but keep their sublayers; at last these are dropped one after the other, MLPs
        first. For limits that merging does not help with, the widths do so before. The precision changes only if no
        point in it fits. A point within all limits is returned as it is. The result is canonical.
        """
        names = [name for name in self.dimensions if name != PRECISION]
        of_widths = [bound for bound in self.limits if not bound.merging_helps]
        if of_widths:
            widths = [name for name in names if not name.startswith("merge")]
            params = self._projected(params, widths, lambda p: all(bound.holds(self.recipe(p)) for bound in of_widths))
        return self.canonical(self._projected(params, names, lambda point: self.fits(point, budget)))

    def _projected(self, params: Params, names: list[str], fits: Callable[[Params], bool]) -> Params:
        if fits(params):
            return params
        chosen = {name: self.dimensions[name] for name in names}
        cheapest = params | {name: self.cheapest[name] for name in names}
        if PRECISION in params and not fits(cheapest):
            params = params | {PRECISION: self.cheapest[PRECISION]}
        return projected(params, chosen, self.smallest, self._dropping, self.cheapest, fits)

    def draw(self, rng: np.random.Generator, low: float) -> Params:
        """Draw a random point whose cost is approximately log-uniform between `low` and the dense GFLOPs.

        Every kind of dimension gets a random strength, and each of its dimensions a random share of it. One draw in
        four only prunes, and one in four only merges. Up to half of the sublayers that may be dropped are, if they
        leave the cost above the target. The precision, which has no GFLOPs, stays float32.
        """
        target = math.exp(rng.uniform(math.log(low), math.log(self.gflops({}))))
        only = rng.integers(4)
        strength = {kind: rng.uniform() for kind in ("embed", *BLOCK_WIDTHS, "merge")}
        shares = {}
        for name in (name for name in self.dimensions if name != PRECISION):
            kind = name.partition("_")[0]
            left_out = (only == 0 and kind == "merge") or (only == 1 and kind != "merge")
            shares[name] = 0.0 if left_out else strength[kind] * rng.uniform()
        largest = max(shares.values(), default=0.0) or 1.0
        dropped = self._drawn_drops(rng, target) if self._dropping and only != 1 else {}

        def scaled(factor: float) -> Params:
            kept = {name: d.at(min(1.0, shares.get(name, 0.0) / largest * factor)) for name, d in self._kept.items()}
            return self.canonical(kept | dropped)

        steepest = 1 / min((share / largest for share in shares.values() if share > 0), default=1.0)
        return weakest(scaled, 0.0, steepest, lambda point: self.gflops(point) <= target)

    def _drawn_drops(self, rng: np.random.Generator, target: float) -> Params:
        """Draw sublayers to drop as long as the cost stays above the target."""
        names, dropped = list(self._dropping), Params()
        for index in rng.permutation(len(names))[: rng.integers(len(names) // 2 + 1)]:
            more = dropped | {names[index]: self._dropping[names[index]]}
            if self.gflops(more) < target:
                break
            dropped = more
        return dropped

    def narrowest(self, low: float) -> Params:
        """Return the point with minimum widths and equal merging in all blocks, down to `low` GFLOPs."""

        def merged(compression: float) -> Params:
            names = [name for name in self.merging.dimensions if name in self.dimensions]
            return self.smallest | {name: self.dimensions[name].at(compression) for name in names}

        def fits(point: Params) -> bool:
            return self.gflops(point) <= low

        return merged(0.0) if fits(merged(0.0)) else weakest(merged, 0.0, 1.0, fits)
