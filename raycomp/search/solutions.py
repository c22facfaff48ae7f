# SPDX-License-Identifier: Apache-2.0
"""Answer a new budget from the rows of a sweep: the recipes that its model expects to be best within limits.

The additive model is conditioned on all probes and search trials, whichever sampler proposed them, and solved under the
limits; nothing is measured. Expected mIoUs are those of the sweep's final stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raycomp import objectives
from raycomp.bounds import Cost, bounds, recipe_costs
from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.evaluate.latency_error import TABLE_FILE
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.objectives import mean_accuracy
from raycomp.recipe import Recipe
from raycomp.results.query import completed, final_stage
from raycomp.results.row import Row
from raycomp.search.additive_sampler import attributes, both_stages
from raycomp.search.knowledge import Knowledge, Observation, Point
from raycomp.search.sampler import grid_point
from raycomp.settings.amounts import CostName, Limit, in_words
from raycomp.settings.space_and_search import LimitsConfig
from raycomp.shape import ModelShape
from raycomp.space import Space
from raycomp.storage import AnyPath

_Z = 1.96  # half width of a 95 % interval, in standard deviations
_LEARNED = ("probe", "search")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimate:
    """An expected mIoU in [0, 1], with its 95 % interval."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class Solution:
    """A recipe that is expected to be the best within limits, or the best but those before it."""

    recipe: Recipe
    mious: dict[str, Estimate]
    """By name of the objective."""


@dataclass(frozen=True)
class Problem:
    """The limits that a solution keeps, and its costs."""

    space: Space
    """The space of the sweep, with all limits but the budget."""
    budget: float
    """Maximum cost, in the unit of `Space.cost`."""
    costs: Mapping[CostName, Cost]
    """All costs that are known of a recipe; time only where there is a latency table."""

    @classmethod
    def of(
        cls,
        config: SweepConfig,
        shape: ModelShape,
        folder: AnyPath,
        budget: Limit | None,
        limits: Mapping[CostName, Limit],
    ) -> "Problem":
        """Add limits to those of a sweep.

        Args:
            folder: Folder of the sweep, which may have a latency table.
            budget: In the sweep's cost metric; None for the sweep's own.
            limits: Limits on further costs, for messages called `--max-COST`.

        Raises:
            UserError: If no recipe of the space keeps the limits, the sweep did not search up to the budget, or a limit
                on time needs a latency table that the sweep does not have.
        """
        search, path = config.search, folder / TABLE_FILE
        if "ms" in limits and not path.is_file():
            raise UserError(
                f"a limit in ms needs the sweep's latency table, but there is no {path}; sweeps with cost metric "
                "latency or search.limits.ms have one"
            )
        latency = LatencyTable.load(path) if search.needs_times or "ms" in limits else None
        asked = config.model_copy(update={"search": search.model_copy(update={"limits": _section(limits)})})
        further = [replace(one, field=f"--max-{one.name}") for one in bounds(asked, shape, latency)]
        space = Space.of(config, shape, latency)
        space = replace(space, limits=(*space.limits, *further))
        most = space.budget_of(search.budget)
        allowed = most if budget is None else space.budget_of(budget)
        if budget is not None and allowed > most * (1 + _ROUNDING):
            raise UserError(
                f"--budget {in_words(budget)}: the sweep searched only up to {in_words(search.budget)}; nearest: "
                f"--budget {in_words(search.budget)}"
            )
        space.check_budget(allowed, "--budget")
        return cls(space, allowed, recipe_costs(config, shape, latency))

    def keeps(self, recipe: Recipe) -> bool:
        """Return whether a recipe keeps the budget and all limits."""
        return not recipe.adaptive and self.space.allows(recipe, self.budget)


def solutions(problem: Problem, rows: Sequence[Row], count: int = 1) -> list[Solution]:
    """Return the recipes that the model expects to be best within the limits, best first.

    Args:
        rows: Those of the sweep; without search trials, the model learns from its full evaluations.
        count: Number of different recipes; fewer if no more are found.

    Raises:
        UserError: If nothing is measured yet.
    """
    knowledge = Knowledge(problem.space)
    stages = _LEARNED if completed(rows, "search") else ("full",)
    observed = observations(knowledge, sorted((r for r in rows if r.stage in stages), key=lambda row: row.number))
    if not observed:
        raise UserError("the sweep has no complete trial yet")
    knowledge.learn(observed)
    found: dict[Point, None] = {}
    for _ in range(count):
        point = knowledge.best(knowledge.cautious, problem.budget, found.__contains__)
        if point is None:
            break
        found[point] = None
    changes = _changes(rows) if final_stage(rows) == "full" else {}
    return [_solution(knowledge, point, changes) for point in found]


def best_measured(problem: Problem, rows: Sequence[Row]) -> Row | None:
    """Return the most accurate row of the final stage within the limits; None without one."""
    measured = completed(rows, final_stage(rows))
    return max((row for row in measured if problem.keeps(row.recipe)), key=mean_accuracy, default=None)


def _section(limits: Mapping[CostName, Limit]) -> LimitsConfig:
    return LimitsConfig.model_validate(dict(limits))


def observations(knowledge: Knowledge, rows: Sequence[Row]) -> list[Observation]:
    """Return what complete and stopped rows observed, without recipes that no grid point is near to."""
    found: list[Observation] = []
    for row in rows:
        if row.status not in ("complete", "stopped"):
            continue
        if (params := grid_point(knowledge.space, row)) is not None:
            values = [one.value(row) for one in objectives.mious()] if row.status == "complete" else []
            found += both_stages(knowledge.point(params), values, attributes(row))
    return found


def _changes(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Return how each mIoU changes from the search stage to the full one, for the recipes that have both."""
    full = {row.recipe_id: row for row in completed(rows, "full")}
    pairs = [(row, full[row.recipe_id]) for row in completed(rows, "search") if row.recipe_id in full]
    if not pairs:
        return {}
    return {one.name: np.array([one.value(b) - one.value(a) for a, b in pairs]) for one in objectives.mious()}


def _solution(knowledge: Knowledge, point: Point, changes: Mapping[str, np.ndarray]) -> Solution:
    """Predict the mIoUs of a point on the full set.

    They are those of the search stage, shifted by the mean change between the stages. The interval is widened by the
    spread of the change.
    """
    mious = {}
    for one, (expected, low, high) in zip(objectives.mious(), knowledge.mious(point), strict=True):
        change = changes.get(one.name, np.zeros(1))
        middle, count = expected + float(change.mean()), len(change)
        spread = _Z * float(change.std(ddof=1)) * (1 + 1 / count) ** 0.5 if count > 1 else 0.0
        below, above = np.hypot(expected - low, spread), np.hypot(high - expected, spread)
        bounded = np.clip([middle, middle - below, middle + above], 0.0, 1.0).tolist()
        mious[one.name] = Estimate(*bounded)
    return Solution(knowledge.space.recipe(knowledge.params(point)), mious)
