# SPDX-License-Identifier: Apache-2.0
"""Queries on the rows of a sweep: its dense model, its front, its refined recipes, the agreement of its stages."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from raycomp import objectives
from raycomp.errors import UserError, first_line
from raycomp.merging import METHODS
from raycomp.results.pareto import front, hypervolume, most_useful
from raycomp.results.row import Row
from raycomp.settings.amounts import Amount, Limit
from raycomp.settings.space_and_search import SpaceConfig

UNIFORM, UNIFORM_PRUNING, UNIFORM_BOTH = "uniform ", "uniform pruning", "uniform prune+"
"""Label prefixes of the uniform baselines, which are the same in every block: merging, pruning, and both."""
FULL_EVALUATIONS = 16
"""Front members measured on the full set."""
_MATCHED = 0.8  # minimum part of a budget that a baseline must spend to be compared at it


@dataclass(frozen=True)
class AtBudget:
    """The best front member at a share of the dense cost, and the uniform baselines measured there."""

    share: float
    best: Row | None
    baselines: dict[str, Row | None]


@dataclass(frozen=True)
class Origins:
    """Number of recipes of a sweep by origin."""

    baselines: int
    """Matched to a cost by hand, before the search."""
    proposed: int
    """Proposed by the search."""

    def __str__(self) -> str:
        return f"{counted(self.baselines)}, {self.proposed or 'none'} proposed by the search"

    @property
    def best(self) -> str:
        """Name of the best recipe in tables."""
        return "best found" if self.proposed else "best baseline"


def counted(count: int) -> str:
    """Format a number of baselines: `1 baseline`, `12 baselines`."""
    return f"{count} baseline" + ("" if count == 1 else "s")


def kind_of(label: str) -> str:
    """Return the kind of a baseline by its label: "uniform ToMe" for "uniform ToMe 50%"; empty for other recipes."""
    return label.rpartition(" ")[0]


def uniform_baselines(title: str = METHODS[SpaceConfig().merge].title) -> tuple[str, str, str]:
    """Return the kinds of uniform baselines: merging by the method with this title, pruning, and both."""
    return UNIFORM + title, UNIFORM_PRUNING, UNIFORM_BOTH + title


def uniform_baselines_of(rows: Iterable[Row]) -> tuple[str, str, str]:
    """Return the kinds of uniform baselines of a sweep; of the default merge method if no baseline merges."""
    merging = {kind_of(row.label) for row in rows if is_uniform_baseline(row.label)} - {UNIFORM_PRUNING}
    if not merging:
        return uniform_baselines()
    return uniform_baselines(min(merging).removeprefix(UNIFORM_BOTH).removeprefix(UNIFORM))


def is_uniform_baseline(label: str) -> bool:
    """Return whether a label names a uniform baseline."""
    return kind_of(label).startswith(UNIFORM)


def completed(rows: Iterable[Row], stage: str) -> list[Row]:
    """Return the complete rows of one stage."""
    return [row for row in rows if row.stage == stage and row.status == "complete"]


def dense_row(rows: Iterable[Row], stage: str) -> Row | None:
    """Return the dense model's row of a stage."""
    return next((row for row in completed(rows, stage) if row.origin == "reference"), None)


def for_full_evaluation(rows: Iterable[Row]) -> list[Row]:
    """Return the search rows whose recipes get a full evaluation, each once: dense, uniform baselines, the front.

    Only the `FULL_EVALUATIONS` front members that contribute most to the hypervolume are included.
    """
    search = completed(rows, "search")
    reference = [row for row in search if row.origin == "reference"]
    trials = [row for row in search if row.origin != "reference"]
    baselines = [row for row in (*trials, *completed(rows, "probe")) if is_uniform_baseline(row.label)]
    dense_cost = reference[0].cost if reference else max((row.cost for row in trials), default=1.0)
    chosen = most_useful(trials, FULL_EVALUATIONS, dense_cost)
    return list({row.recipe_id: row for row in (*reference, *baselines, *chosen)}.values())


def final_stage(rows: Sequence[Row]) -> str:
    """Return the stage that represents a sweep: full once every full evaluation is done, else search."""
    stages = {row.stage for row in rows if row.status == "complete" and row.origin != "reference"}
    all_done = sum(row.stage == "full" for row in rows) >= len(for_full_evaluation(rows))
    return "full" if "full" in stages and (all_done or "search" not in stages) else "search"


def budget_share(budget: Limit, rows: Iterable[Row]) -> float:
    """Return the budget of a sweep with these rows as a share of the dense cost; 1 if no row tells the dense cost."""
    if not isinstance(budget, Amount):
        return budget
    costs = (row.cost for row in rows if row.is_dense and row.gflops is not None)
    return budget.value / next(costs, budget.value)


def final_front(rows: Sequence[Row], budget: Limit) -> list[Row]:
    """Return the front within the budget at the final stage; see `final_stage`."""
    measured, share = completed(rows, final_stage(rows)), budget_share(budget, rows)
    return front([row for row in measured if row.origin != "reference" and row.cost_share <= share])


def front_volume(members: Sequence[Row], rows: Sequence[Row]) -> float | None:
    """Return the hypervolume of a sweep's final front; None without a front or a dense row at its stage."""
    dense = dense_row(rows, members[0].stage) if members else None
    return None if dense is None else hypervolume(members, dense.cost)


def refined_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the complete rows of refined recipes: for each, all seeds of its latest training."""
    refined = [row for row in rows if row.stage == "refined"]
    in_order = sorted(refined, key=lambda row: row.started.timestamp() if row.started else 0.0)
    latest = {row.recipe_id: row.operating_point for row in in_order}
    return [row for row in completed(refined, "refined") if row.operating_point == latest[row.recipe_id]]


def deployed_row(rows: Sequence[Row], recipe_id: str, seed: int | None = None) -> Row | None:
    """Return the row that tells most about a recipe's model: of the full set, else the search stage, else a probe.

    With a seed, return the row of the model that was refined with it. None if the model was not measured.
    """
    if seed is not None:
        return next((row for row in refined_rows(rows) if (row.recipe_id, row.seed) == (recipe_id, seed)), None)
    found = {row.stage: row for row in rows if row.recipe_id == recipe_id and row.status == "complete"}
    return next((found[stage] for stage in ("full", "search", "probe") if stage in found), None)


def refined_front(rows: Iterable[Row]) -> list[Row]:
    """Return the front of the refined rows."""
    return front(refined_rows(rows))


def baseline_curve(rows: Sequence[Row], stage: str, kind: str) -> list[Row]:
    """Return the measured rows of one kind of baseline, cheapest first."""
    return sorted((row for row in completed(rows, stage) if kind_of(row.label) == kind), key=lambda row: row.cost)


def at_budgets(rows: Sequence[Row], shares: Sequence[float], budget: Limit) -> list[AtBudget]:
    """Return, for each share of the dense cost, the best affordable front member and the baselines matched to it.

    The best member has the highest mean of clean and corrupted mIoU.
    """
    members = final_front(rows, budget)
    if not members:
        return []
    measured = {
        (row.label, share): row
        for row in completed(rows, members[0].stage)
        for share in shares
        if row.label and _MATCHED * share <= row.cost_share <= share * (1 + 1e-3)  # re-ranked rows may differ
    }
    result, kinds = [], uniform_baselines_of(rows)
    for share in sorted(shares, reverse=True):
        affordable = (row for row in members if row.cost_share <= share)
        best = max(affordable, key=objectives.mean_accuracy, default=None)
        result.append(AtBudget(share, best, {kind: measured.get((f"{kind} {share:.0%}", share)) for kind in kinds}))
    return result


def origins(rows: Iterable[Row]) -> Origins:
    """Count the recipes of a sweep by origin, each once; refined rows are not counted again."""
    trials = {row.recipe_id: row.origin for row in rows if row.stage in ("probe", "search", "full")}
    return Origins(*(sum(origin == one for origin in trials.values()) for one in ("baseline", "proposed")))


def class_names(rows: Sequence[Row]) -> list[str]:
    """Return the class names of a sweep, or `class 0`, `class 1`, ... for rows written before names were stored."""
    names = next((row.classes for row in rows if row.classes), None)
    return list(names) if names else [f"class {index}" for index in range(len(rows[0].class_iou))]


def check_measured(rows: Sequence[Row]) -> None:
    """Raise a UserError if the dense model, or every other recipe, could not be measured."""
    errors = [(row.is_dense, first_line(row.error or "unknown error")) for row in rows if row.status == "failed"]
    if dense := next((error for is_dense, error in errors if is_dense), None):
        raise UserError(f"the dense model could not be measured: {dense}")
    count = sum(not row.is_dense for row in rows)
    if count and len(errors) == count:
        raise UserError(f"no recipe could be measured ({count} of {count} failed); first error: {errors[0][1]}")


def first_agreement(rows: Sequence[Row]) -> dict[str, float]:
    """Return the Spearman correlation of each objective between the first images and the search stage."""
    early = [objective for objective in objectives.measured() if objective.first]
    staged = [row for row in completed(rows, "search") if all(one.has_first(row) for one in early)]
    if len(staged) < 3:
        return {}
    return {one.name: spearman(map(one.first_value, staged), map(one.value, staged)) for one in early}


def stage_agreement(rows: Sequence[Row]) -> dict[str, float]:
    """Return the Spearman correlation of each objective between the search and full stages."""
    return agreement(rows, rows, "search")


def stage_changes(rows: Sequence[Row]) -> dict[str, float]:
    """Return by how much each objective changes on average from the search to the full stage; empty without pairs.

    It covers the recipes measured at both, without the dense model.
    """
    first = {row.recipe_id: row for row in completed(rows, "search") if not row.is_dense}
    pairs = [(first[row.recipe_id], row) for row in completed(rows, "full") if row.recipe_id in first]
    if not pairs:
        return {}
    return {
        one.name: fmean(one.value(after) - one.value(before) for before, after in pairs)
        for one in objectives.measured()
    }


def agreement(before: Sequence[Row], after: Sequence[Row], stage: str = "full") -> dict[str, float]:
    """Return the Spearman correlation of each objective between a stage of one sweep and the full stage of another.

    It covers the recipes that both have; the result is empty for fewer than three.
    """
    first = {row.recipe_id: row for row in completed(before, stage)}
    pairs = [(first[row.recipe_id], row) for row in completed(after, "full") if row.recipe_id in first]
    if len(pairs) < 3:
        return {}
    earlier, later = zip(*pairs, strict=True)
    return {one.name: spearman(map(one.value, earlier), map(one.value, later)) for one in objectives.measured()}


def spearman(first: Iterable[float], second: Iterable[float]) -> float:
    """Return Spearman's rank correlation; NaN if all values on one side are equal."""
    from scipy.stats import spearmanr

    a, b = list(first), list(second)
    return math.nan if len(set(a)) == 1 or len(set(b)) == 1 else float(spearmanr(a, b).statistic)
