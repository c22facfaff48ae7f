# SPDX-License-Identifier: Apache-2.0
"""Pareto fronts and hypervolumes of complete rows, in the objectives of `raycomp.objectives`; computed by moocore."""

from collections.abc import Sequence

import moocore
import numpy as np

from raycomp import objectives
from raycomp.results.row import Row


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other row dominates, cheapest first; the first of equal rows stays."""
    if not rows:
        return []
    keep = moocore.is_nondominated(_minimised(rows))
    return sorted((row for row, kept in zip(rows, keep, strict=True) if kept), key=lambda row: row.cost)


def hypervolume(rows: Sequence[Row], dense_cost: float) -> float:
    """Return the volume that the rows dominate up to the objectives' references, with cost relative to dense.

    With mIoUs and a cost as objectives, 1 is a free model without errors.
    """
    return float(moocore.hypervolume(_relative(rows, dense_cost), ref=_reference())) if rows else 0.0


def most_useful(rows: Sequence[Row], count: int, dense_cost: float) -> list[Row]:
    """Return at most `count` front members; repeatedly drop the one that contributes least to the hypervolume."""
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
