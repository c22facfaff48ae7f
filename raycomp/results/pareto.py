"""Pareto fronts and hypervolumes of complete rows, by the objectives of `raycomp.objectives`; computed by moocore."""

from collections.abc import Sequence

import moocore
import numpy as np

from raycomp import objectives
from raycomp.results.row import Row


def front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other row dominates, cheapest first; of equal ones the first stays."""
    if not rows:
        return []
    keep = moocore.is_nondominated(_minimised(rows))
    return sorted((row for row, kept in zip(rows, keep, strict=True) if kept), key=lambda row: row.cost)


def hypervolume(rows: Sequence[Row], dense_cost: float) -> float:
    """Volume that the rows dominate up to the objectives' references, the cost relative to the dense model's.

    With mIoUs and a cost, 1 would be a free model without errors.
    """
    return float(moocore.hypervolume(_relative(rows, dense_cost), ref=_reference())) if rows else 0.0


def most_useful(rows: Sequence[Row], count: int, dense_cost: float) -> list[Row]:
    """At most `count` members of the front: the least contribution to the hypervolume goes first."""
    kept = front(rows)
    while len(kept) > count:
        contributions = moocore.hv_contributions(_relative(kept, dense_cost), ref=_reference())
        kept.pop(int(np.argmin(contributions)))
    return kept


def _minimised(rows: Sequence[Row]) -> np.ndarray:
    return objectives.minimised([objectives.values(row) for row in rows])


def _relative(rows: Sequence[Row], dense_cost: float) -> np.ndarray:
    points = _minimised(rows)
    points[:, -1] /= dense_cost
    return points


def _reference() -> np.ndarray:
    return objectives.minimised([float(objective.reference) for objective in objectives.OBJECTIVES])
