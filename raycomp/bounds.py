# SPDX-License-Identifier: Apache-2.0
"""Limits on several costs of a recipe at once: GFLOPs, parameters, time and memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from raycomp import footprint
from raycomp.config import SweepConfig
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.flops import gflops
from raycomp.recipe import Recipe, dense
from raycomp.settings.amounts import Amount, CostName, Limit, allowance, in_words
from raycomp.shape import ModelShape, Size

Cost = Callable[[Recipe], float]


@dataclass(frozen=True)
class Bound:
    """A limit on one cost of a recipe."""

    name: CostName
    limit: Limit
    """As it was set."""
    cost: Cost
    full: float
    """Cost of the dense model."""
    field: str = ""
    """Where it was set, for messages; by default `search.limits.NAME`."""

    @property
    def maximum(self) -> float:
        """Largest cost allowed."""
        return allowance(self.limit, self.full)

    @property
    def merging_helps(self) -> bool:
        """Whether fewer tokens lower the cost."""
        return self.name not in ("params", "file")

    def holds(self, recipe: Recipe) -> bool:
        """Return whether a recipe keeps the limit."""
        return self.cost(recipe) <= self.maximum

    def load(self, recipe: Recipe) -> float:
        """Return the cost of a recipe relative to the limit."""
        return self.cost(recipe) / self.maximum

    def unmet(self, recipe: Recipe) -> str:
        """Describe a limit that `recipe`, the nearest of a space, exceeds, and the nearest that can be met."""
        cost, given = self.cost(recipe), in_words(Amount(self.maximum, self.name))
        nearest = f"{math.ceil(1000 * cost / self.full) / 10:g}%"
        field = self.field or f"search.limits.{self.name}"
        return (
            f"{field} {self.maximum / self.full:.1%} ({given}) cannot be met: the recipe of the space that "
            f"comes nearest to all limits has {in_words(Amount(cost, self.name))}; nearest: {nearest}"
        )


def bounds(config: SweepConfig, shape: ModelShape, latency: LatencyTable | None = None) -> tuple[Bound, ...]:
    """Return the limits of a sweep's settings beside its budget; one on time only if there is a latency table."""
    limits, costs, full = config.search.limits, recipe_costs(config, shape, latency), dense(shape)
    given = {name: limit for name in costs if (limit := getattr(limits, name)) is not None}
    return tuple(Bound(name, limit, costs[name], costs[name](full)) for name, limit in given.items())


def recipe_costs(config: SweepConfig, shape: ModelShape, latency: LatencyTable | None = None) -> dict[CostName, Cost]:
    """Return the costs of recipes as a sweep counts them, by name; time only if there is a latency table."""
    image, batch, dtype = config.data.window_for(shape), config.search.latency_batch, config.evaluation.dtype
    costs: dict[CostName, Cost] = {
        "gflops": partial(_gflops, shape, image),
        "params": partial(footprint.params, shape),
        "memory": partial(_memory, shape, image, batch, dtype),
        "file": partial(footprint.file_size, shape),
    }
    return costs if latency is None else costs | {"ms": latency.latency_ms}


def _gflops(shape: ModelShape, image: Size, recipe: Recipe) -> float:
    return gflops(shape, recipe, image)


def _memory(shape: ModelShape, image: Size, batch: int, dtype: str, recipe: Recipe) -> float:
    return footprint.memory(shape, recipe, image, batch, dtype).total
