"""Compare a front with the dense model and with the uniform baselines at the same cost, GFLOPs or time."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raycomp.data.corruptions import SEVERITIES
from raycomp.evaluate.robustness import known_mean, relative_corruption_degradation
from raycomp.report.trust import Trust, trust
from raycomp.results.row import Row, cost, cost_share
from raycomp.results.store import completed
from raycomp.search.confirmed import confirmed
from raycomp.search.known import baselines_of, counted, kind_of
from raycomp.search.pareto import front, hypervolume

_MATCHED = 0.8  # of a limit that a baseline spends at least, or it says little of it


@dataclass(frozen=True)
class Gain:
    """Difference in mIoU, clean and corrupted; positive is better than what it is compared with."""

    clean: float
    corrupted: float


@dataclass(frozen=True)
class Comparison:
    """One front member beside its alternatives; None where an alternative was not measured that cheap."""

    row: Row
    dense: Gain | None
    baselines: dict[str, Gain | None]
    rcd: float | None
    """Relative corruption degradation against dense, mean over types; below 1 degrades less."""
    trust: Trust | None
    """How sure its figures are, where rows say what each image adds."""


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
    """Matched to a cost by hand, before the search."""
    proposed: int
    """By the search."""

    def __str__(self) -> str:
        return f"{counted(self.known)}, {self.proposed or 'none'} proposed by the search"

    @property
    def best(self) -> str:
        """What the best of them may be called."""
        return "best found" if self.proposed else "best known"


def origins(rows: Iterable[Row]) -> Origins:
    """Count the recipes of a sweep by their origin, each once; refined ones are not counted again."""
    trials = {row["recipe_id"]: row["origin"] for row in rows if row["stage"] in ("search", "full")}
    return Origins(*(sum(origin == one for origin in trials.values()) for one in ("known", "proposed")))


def final_front(rows: Sequence[Row], budget_share: float) -> list[Row]:
    """The front of the full stage within the budget; until that is measured whole, of the search stage."""
    measured = completed(rows, final_stage(rows))
    return front([row for row in measured if row["origin"] != "reference" and cost_share(row) <= budget_share])


def final_stage(rows: Sequence[Row]) -> str:
    """The stage that a sweep is told by: full, once all that belongs there is measured; before that, search."""
    there = {row["stage"] for row in rows if row["status"] == "complete" and row["origin"] != "reference"}
    whole = sum(row["stage"] == "full" for row in rows) >= len(confirmed(rows))
    return "full" if "full" in there and (whole or "search" not in there) else "search"


def refined_rows(rows: Iterable[Row]) -> list[Row]:
    """The complete rows of refined recipes: of each, those of its latest training, which may differ in their seeds."""
    refined = [row for row in rows if row["stage"] == "refined"]
    latest = {row["recipe_id"]: row["setting"] for row in sorted(refined, key=_began)}
    return [row for row in completed(refined, "refined") if row["setting"] == latest[row["recipe_id"]]]


def refined_front(rows: Iterable[Row]) -> list[Row]:
    """Those of them that none other dominates."""
    return front(refined_rows(rows))


def _began(row: Row) -> float:
    return row["started"].timestamp() if row.get("started") else 0.0


def front_volume(members: Sequence[Row], rows: Sequence[Row]) -> float | None:
    """Hypervolume of a sweep's final front; None before there are a front and a dense model beside it."""
    whole = dense_row(rows, members[0]["stage"]) if members else None
    return None if whole is None else hypervolume(members, cost(whole))


def dense_row(rows: Sequence[Row], stage: str) -> Row | None:
    """The dense model's row of a stage."""
    return next((row for row in completed(rows, stage) if row["origin"] == "reference"), None)


def compare(rows: Sequence[Row], budget_share: float) -> list[Comparison]:
    """Every front member against dense and against each baseline at its cost.

    Baselines are measured at a few budgets; between two of them their mIoU is interpolated linearly.
    """
    members = final_front(rows, budget_share)
    if not members:
        return []
    stage = members[0]["stage"]
    whole = dense_row(rows, stage)
    sure = trust(members)
    curves = {kind: baseline_curve(rows, stage, kind) for kind in baselines_of(row["label"] for row in rows)}
    return [
        Comparison(
            row=row,
            dense=None if whole is None else _gain(row, whole["clean_miou"], whole["corrupted_miou"]),
            baselines={kind: _against(row, curve) for kind, curve in curves.items()},
            rcd=None if whole is None else _rcd(row, whole),
            trust=sure.get(row["recipe_id"]),
        )
        for row in members
    ]


def at_budgets(rows: Sequence[Row], shares: Sequence[float], budget_share: float) -> list[AtBudget]:
    """At each share of the dense cost: the front member with the best mean of clean and corrupted
    mIoU that costs no more, and each baseline matched to that share."""
    members = final_front(rows, budget_share)
    if not members:
        return []
    measured = {
        (row["label"], share): row
        for row in completed(rows, members[0]["stage"])
        for share in shares
        if row["label"] and _MATCHED * share <= cost_share(row) <= share * (1 + 1e-3)  # elsewhere it may cost another
    }
    result, kinds = [], baselines_of(row["label"] for row in rows)
    for share in sorted(shares, reverse=True):
        affordable = [row for row in members if cost_share(row) <= share]
        best = max(affordable, key=lambda row: row["clean_miou"] + row["corrupted_miou"], default=None)
        result.append(AtBudget(share, best, {kind: measured.get((f"{kind} {share:.0%}", share)) for kind in kinds}))
    return result


def baseline_curve(rows: Sequence[Row], stage: str, kind: str) -> list[Row]:
    """Measured rows of a known kind, cheapest first."""
    return sorted((row for row in completed(rows, stage) if kind_of(row["label"]) == kind), key=cost)


def first_agreement(rows: Sequence[Row]) -> dict[str, float]:
    """Spearman correlation between the first images' and the search stage's values, by objective."""
    staged = [row for row in completed(rows, "search") if row.get("first_clean_miou") is not None]
    return _agreement([(row, row) for row in staged], "first_")


def stage_agreement(rows: Sequence[Row]) -> dict[str, float]:
    """Spearman correlation between the search stage's and the full stage's values, by objective."""
    return _of_both(completed(rows, "search"), completed(rows, "full"))


def agreement(before: Sequence[Row], after: Sequence[Row]) -> dict[str, float]:
    """Spearman correlation between what the full stages of two sweeps say of the recipes that both have."""
    return _of_both(completed(before, "full"), completed(after, "full"))


def _of_both(before: Sequence[Row], after: Sequence[Row]) -> dict[str, float]:
    first = {row["recipe_id"]: row for row in before}
    return _agreement([(first[row["recipe_id"]], row) for row in after if row["recipe_id"] in first])


def _agreement(pairs: Sequence[tuple[Row, Row]], prefix: str = "") -> dict[str, float]:
    """Of earlier and later figures of the same recipes; of fewer than three there is none."""
    if len(pairs) < 3:
        return {}
    return {
        name: spearman([before[prefix + name] for before, _ in pairs], [after[name] for _, after in pairs])
        for name in ("clean_miou", "corrupted_miou")
    }


def _rcd(row: Row, whole: Row) -> float | None:
    tables = [np.array(r.get("corrupted_by_variant") or []).reshape(-1, len(SEVERITIES)) for r in (row, whole)]
    if not all(table.size for table in tables):
        return None
    by_type = relative_corruption_degradation(tables[0], row["clean_miou"], tables[1], whole["clean_miou"])
    return known_mean(by_type)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where one side has no order, as all its values are equal."""
    from scipy.stats import spearmanr

    return math.nan if len(set(a)) == 1 or len(set(b)) == 1 else float(spearmanr(a, b).statistic)


def rank_text(rho: float) -> str:
    """A rank correlation as it is printed."""
    return "undefined, as all values are equal" if math.isnan(rho) else f"{rho:.2f}"


def _against(row: Row, curve: Sequence[Row]) -> Gain | None:
    costs, here = [cost(r) for r in curve], cost(row)
    if not curve or not costs[0] <= here <= costs[-1] * (1 + 1e-3):
        return None
    clean, corrupted = (
        float(np.interp(here, costs, [r[name] for r in curve])) for name in ("clean_miou", "corrupted_miou")
    )
    return _gain(row, clean, corrupted)


def _gain(row: Row, clean: float, corrupted: float) -> Gain:
    return Gain(row["clean_miou"] - clean, row["corrupted_miou"] - corrupted)
