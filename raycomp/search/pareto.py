"""Pareto fronts of rows: clean mIoU up, corrupted mIoU up, cost down. Ranks and volumes by moocore."""

from collections.abc import Sequence
from typing import Literal

import moocore
import numpy as np

from raycomp.results.row import Row, cost

DIRECTIONS: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "maximize", "minimize")


def values(row: Row) -> tuple[float, float, float]:
    """The three objectives of a row."""
    return row["clean_miou"], row["corrupted_miou"], cost(row)


def front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other row dominates, cheapest first; of equal ones the first stays."""
    if not rows:
        return []
    keep = moocore.is_nondominated(_minimised(rows))
    return sorted((row for row, kept in zip(rows, keep, strict=True) if kept), key=cost)


def hypervolume(rows: Sequence[Row], dense_cost: float) -> float:
    """Volume dominated by the rows, in units where the worst corner is mIoU 0 at the dense cost.

    1 would be a free model without errors.
    """
    if not rows:
        return 0.0
    points = _minimised(rows) / [1, 1, dense_cost]
    return float(moocore.hypervolume(points, ref=[0.0, 0.0, 1.0]))


def most_useful(rows: Sequence[Row], count: int, dense_cost: float) -> list[Row]:
    """At most `count` members of the front: the least contribution to the hypervolume goes first."""
    kept = front(rows)
    while len(kept) > count:
        points = _minimised(kept) / [1, 1, dense_cost]
        contributions = moocore.hv_contributions(points, ref=[0.0, 0.0, 1.0])
        kept.pop(int(np.argmin(contributions)))
    return kept


def _minimised(rows: Sequence[Row]) -> np.ndarray:
    return np.array([values(row) for row in rows]) * [-1, -1, 1]
