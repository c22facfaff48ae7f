"""Questions to the rows of a sweep: its dense model, its front, what was refined, how far its stages agree."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raycomp import objectives
from raycomp.errors import UserError, first_line
from raycomp.merging import METHODS
from raycomp.results.pareto import front, hypervolume, most_useful
from raycomp.results.row import Row
from raycomp.settings.space_and_search import SpaceConfig

UNIFORM, UNIFORM_PRUNING, UNIFORM_BOTH = "uniform ", "uniform pruning", "uniform prune+"
"""How labels of baselines begin: merging, pruning, and both, the same in every block."""
FULL_EVALUATIONS = 12
"""Members of the front that are measured on the full set."""
_MATCHED = 0.8  # of a limit that a baseline spends at least, or it says little of it


@dataclass(frozen=True)
class AtBudget:
    """The best found at a share of the dense cost, beside the baselines measured there."""

    share: float
    best: Row | None
    baselines: dict[str, Row | None]


@dataclass(frozen=True)
class Origins:
    """Where the recipes of a sweep are from."""

    known: int
    """CostMatch to a cost by hand, before the search."""
    proposed: int
    """By the search."""

    def __str__(self) -> str:
        return f"{counted(self.known)}, {self.proposed or 'none'} proposed by the search"

    @property
    def best(self) -> str:
        """What the best of them may be called."""
        return "best found" if self.proposed else "best known"


def counted(count: int) -> str:
    """`1 known recipe`, `12 known recipes`."""
    return f"{count} known recipe" + ("" if count == 1 else "s")


def kind_of(label: str) -> str:
    """The kind that a row's label names, as of "uniform ToMe 50%"; empty of recipes that were searched for."""
    return label.rpartition(" ")[0]


def baselines(title: str = METHODS[SpaceConfig().merge].title) -> tuple[str, str, str]:
    """What a search must beat, the same in every block: merging by the method of this title, pruning, and both."""
    return UNIFORM + title, UNIFORM_PRUNING, UNIFORM_BOTH + title


def baselines_of(rows: Iterable[Row]) -> tuple[str, str, str]:
    """The baselines of a sweep with these rows; those of the default merge method where none merges."""
    merging = {kind_of(row.label) for row in rows if is_baseline(row.label)} - {UNIFORM_PRUNING}
    return baselines(min(merging).removeprefix(UNIFORM_BOTH).removeprefix(UNIFORM)) if merging else baselines()


def is_baseline(label: str) -> bool:
    """Whether a row's label is that of a baseline."""
    return kind_of(label).startswith(UNIFORM)


def completed(rows: Iterable[Row], stage: str) -> list[Row]:
    """The complete rows of one stage."""
    return [row for row in rows if row.stage == stage and row.status == "complete"]


def dense_row(rows: Iterable[Row], stage: str) -> Row | None:
    """The dense model's row of a stage."""
    return next((row for row in completed(rows, stage) if row.origin == "reference"), None)


def for_full_evaluation(rows: Iterable[Row]) -> list[Row]:
    """The rows of a search whose recipes are measured on the full set: dense, baselines, and the front, each once.

    Of the front these are the `FULL_EVALUATIONS` members that add most hypervolume.
    """
    search = completed(rows, "search")
    reference = [row for row in search if row.origin == "reference"]
    trials = [row for row in search if row.origin != "reference"]
    baselines = [row for row in trials if is_baseline(row.label)]
    most = reference[0].cost if reference else max((row.cost for row in trials), default=1.0)
    chosen = most_useful(trials, FULL_EVALUATIONS, most)
    return list({row.recipe_id: row for row in (*reference, *baselines, *chosen)}.values())


def final_stage(rows: Sequence[Row]) -> str:
    """The stage that a sweep is told by: full, once all that belongs there is measured; before that, search."""
    there = {row.stage for row in rows if row.status == "complete" and row.origin != "reference"}
    whole = sum(row.stage == "full" for row in rows) >= len(for_full_evaluation(rows))
    return "full" if "full" in there and (whole or "search" not in there) else "search"


def final_front(rows: Sequence[Row], budget_share: float) -> list[Row]:
    """The front of the full stage within the budget; until that is measured whole, of the search stage."""
    measured = completed(rows, final_stage(rows))
    return front([row for row in measured if row.origin != "reference" and row.cost_share <= budget_share])


def front_volume(members: Sequence[Row], rows: Sequence[Row]) -> float | None:
    """Hypervolume of a sweep's final front; None before there are a front and a dense model beside it."""
    whole = dense_row(rows, members[0].stage) if members else None
    return None if whole is None else hypervolume(members, whole.cost)


def refined_rows(rows: Iterable[Row]) -> list[Row]:
    """The complete rows of refined recipes: of each, those of its latest training, which may differ in their seeds."""
    refined = [row for row in rows if row.stage == "refined"]
    latest = {row.recipe_id: row.operating_point for row in sorted(refined, key=_began)}
    return [row for row in completed(refined, "refined") if row.operating_point == latest[row.recipe_id]]


def refined_front(rows: Iterable[Row]) -> list[Row]:
    """Those of them that none other dominates."""
    return front(refined_rows(rows))


def _began(row: Row) -> float:
    return row.started.timestamp() if row.started else 0.0


def baseline_curve(rows: Sequence[Row], stage: str, kind: str) -> list[Row]:
    """Measured rows of a known kind, cheapest first."""
    return sorted((row for row in completed(rows, stage) if kind_of(row.label) == kind), key=lambda row: row.cost)


def at_budgets(rows: Sequence[Row], shares: Sequence[float], budget_share: float) -> list[AtBudget]:
    """At each share of the dense cost: the front member with the best mean of clean and corrupted
    mIoU that costs no more, and each baseline matched to that share."""
    members = final_front(rows, budget_share)
    if not members:
        return []
    measured = {
        (row.label, share): row
        for row in completed(rows, members[0].stage)
        for share in shares
        if row.label and _MATCHED * share <= row.cost_share <= share * (1 + 1e-3)  # elsewhere it may cost another
    }
    result, kinds = [], baselines_of(rows)
    for share in sorted(shares, reverse=True):
        affordable = [row for row in members if row.cost_share <= share]
        best = max(affordable, key=objectives.mean_accuracy, default=None)
        result.append(AtBudget(share, best, {kind: measured.get((f"{kind} {share:.0%}", share)) for kind in kinds}))
    return result


def origins(rows: Iterable[Row]) -> Origins:
    """Count the recipes of a sweep by their origin, each once; refined ones are not counted again."""
    trials = {row.recipe_id: row.origin for row in rows if row.stage in ("search", "full")}
    return Origins(*(sum(origin == one for origin in trials.values()) for one in ("baseline", "proposed")))


def class_names(rows: Sequence[Row]) -> list[str]:
    """Names of the classes of a sweep, or their indices where no row holds names."""
    named = next((row.classes for row in rows if row.classes), None)
    return list(named) if named else [f"class {index}" for index in range(len(rows[0].class_iou))]


def check_measured(rows: Sequence[Row]) -> None:
    """Check that the dense model was measured, and at least one other recipe.

    Raises:
        UserError: with the first error, and how many failed.
    """
    failed = [row for row in rows if row.status == "failed"]
    if whole := next((row for row in failed if row.is_dense), None):
        raise UserError(f"the dense model could not be measured: {_first_error(whole)}")
    others = [row for row in rows if not row.is_dense]
    if others and len(failed) == len(others):
        many, first = f"{len(failed)} of {len(others)}", _first_error(failed[0])
        raise UserError(f"no recipe could be measured ({many} failed); first error: {first}")


def _first_error(row: Row) -> str:
    return first_line(row.error or "unknown error")


def first_agreement(rows: Sequence[Row]) -> dict[str, float]:
    """Spearman correlation between the first images' and the search stage's values, by objective."""
    told = [objective for objective in objectives.measured() if objective.first]
    staged = [row for row in completed(rows, "search") if all(one.has_first(row) for one in told)]
    if len(staged) < 3:
        return {}
    return {
        one.name: spearman([one.first_value(row) for row in staged], [one.value(row) for row in staged]) for one in told
    }


def stage_agreement(rows: Sequence[Row]) -> dict[str, float]:
    """Spearman correlation between the search stage's and the full stage's values, by objective."""
    return _agreement(completed(rows, "search"), completed(rows, "full"))


def agreement(before: Sequence[Row], after: Sequence[Row]) -> dict[str, float]:
    """Spearman correlation between what the full stages of two sweeps say of the recipes that both have."""
    return _agreement(completed(before, "full"), completed(after, "full"))


def _agreement(before: Sequence[Row], after: Sequence[Row]) -> dict[str, float]:
    """Of the recipes that both have; of fewer than three there is none."""
    first = {row.recipe_id: row for row in before}
    pairs = [(first[row.recipe_id], row) for row in after if row.recipe_id in first]
    if len(pairs) < 3:
        return {}
    return {
        one.name: spearman([one.value(row) for row, _ in pairs], [one.value(row) for _, row in pairs])
        for one in objectives.measured()
    }


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where one side has no order, as all its values are equal."""
    from scipy.stats import spearmanr

    return math.nan if len(set(a)) == 1 or len(set(b)) == 1 else float(spearmanr(a, b).statistic)
