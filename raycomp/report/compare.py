# SPDX-License-Identifier: Apache-2.0
"""Compare a front with the dense model, and with the uniform baselines at equal cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycomp import objectives
from raycomp.data.corruptions import SEVERITIES
from raycomp.evaluate.robustness import known_mean, relative_corruption_degradation
from raycomp.objectives import CLEAN
from raycomp.report.confidence import Confidence, confidence
from raycomp.results.query import baseline_curve, dense_row, final_front, uniform_baselines_of
from raycomp.results.row import Row
from raycomp.settings.amounts import Limit

Gain = dict[str, float]
"""Differences of a recipe's measured objectives from those of its reference, by short name."""


@dataclass(frozen=True)
class Comparison:
    """A front member compared with its alternatives; None for an alternative not measured at its cost."""

    row: Row
    dense: Gain | None
    baselines: dict[str, Gain | None]
    rcd: float | None
    """Relative corruption degradation against dense, mean over types; below 1 degrades less."""
    confidence: Confidence | None
    """Intervals of its objectives; None if its row has no counts per image."""


def compare(rows: Sequence[Row], budget: Limit) -> list[Comparison]:
    """Compare every front member with dense, and with each uniform baseline at its cost.

    Baselines are measured at a few budgets; their mIoU is interpolated linearly between these.
    """
    members = final_front(rows, budget)
    if not members:
        return []
    stage = members[0].stage
    dense = dense_row(rows, stage)
    confidences = confidence(members)
    curves = {kind: baseline_curve(rows, stage, kind) for kind in uniform_baselines_of(rows)}
    return [
        Comparison(
            row=row,
            dense=None if dense is None else _gain(row, [one.value(dense) for one in objectives.measured()]),
            baselines={kind: _against(row, curve) for kind, curve in curves.items()},
            rcd=None if dense is None else _rcd(row, dense),
            confidence=confidences.get(row.recipe_id),
        )
        for row in members
    ]


def _rcd(row: Row, dense: Row) -> float | None:
    tables = [np.array(r.corrupted_by_variant).reshape(-1, len(SEVERITIES)) for r in (row, dense)]
    if not all(table.size for table in tables):
        return None
    by_type = relative_corruption_degradation(tables[0], CLEAN.value(row), tables[1], CLEAN.value(dense))
    return known_mean(by_type)


def rank_text(rho: float) -> str:
    """Format a rank correlation."""
    return "undefined, as all values are equal" if math.isnan(rho) else f"{rho:.2f}"


def _against(row: Row, curve: Sequence[Row]) -> Gain | None:
    costs, cost = [r.cost for r in curve], row.cost
    if not curve or not costs[0] <= cost <= costs[-1] * (1 + 1e-3):
        return None
    curves = ([one.value(r) for r in curve] for one in objectives.measured())
    return _gain(row, [float(np.interp(cost, costs, values)) for values in curves])


def _gain(row: Row, others: Sequence[float]) -> Gain:
    return {one.short: one.value(row) - other for one, other in zip(objectives.measured(), others, strict=True)}
