"""Compare a front with the dense model and with the uniform baselines at the same cost, GFLOPs or time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycomp import objectives
from raycomp.data.corruptions import SEVERITIES
from raycomp.evaluate.robustness import known_mean, relative_corruption_degradation
from raycomp.objectives import CLEAN
from raycomp.report.confidence import Confidence, confidence
from raycomp.results.query import baseline_curve, baselines_of, dense_row, final_front
from raycomp.results.row import Row

Gain = dict[str, float]
"""Differences in the measured objectives, by their short names, from what a recipe is compared with."""


@dataclass(frozen=True)
class Comparison:
    """One front member beside its alternatives; None where an alternative was not measured that cheap."""

    row: Row
    dense: Gain | None
    baselines: dict[str, Gain | None]
    rcd: float | None
    """Relative corruption degradation against dense, mean over types; below 1 degrades less."""
    confidence: Confidence | None
    """How sure its figures are, where rows say what each image adds."""


def compare(rows: Sequence[Row], budget_share: float) -> list[Comparison]:
    """Every front member against dense and against each baseline at its cost.

    Baselines are measured at a few budgets; between two of them their mIoU is interpolated linearly.
    """
    members = final_front(rows, budget_share)
    if not members:
        return []
    stage = members[0].stage
    whole = dense_row(rows, stage)
    sure = confidence(members)
    curves = {kind: baseline_curve(rows, stage, kind) for kind in baselines_of(rows)}
    return [
        Comparison(
            row=row,
            dense=None if whole is None else _gain(row, [one.value(whole) for one in objectives.measured()]),
            baselines={kind: _against(row, curve) for kind, curve in curves.items()},
            rcd=None if whole is None else _rcd(row, whole),
            confidence=sure.get(row.recipe_id),
        )
        for row in members
    ]


def _rcd(row: Row, whole: Row) -> float | None:
    tables = [np.array(r.corrupted_by_variant).reshape(-1, len(SEVERITIES)) for r in (row, whole)]
    if not all(table.size for table in tables):
        return None
    by_type = relative_corruption_degradation(tables[0], CLEAN.value(row), tables[1], CLEAN.value(whole))
    return known_mean(by_type)


def rank_text(rho: float) -> str:
    """A rank correlation as it is printed."""
    return "undefined, as all values are equal" if math.isnan(rho) else f"{rho:.2f}"


def _against(row: Row, curve: Sequence[Row]) -> Gain | None:
    costs, here = [r.cost for r in curve], row.cost
    if not curve or not costs[0] <= here <= costs[-1] * (1 + 1e-3):
        return None
    values = ([one.value(r) for r in curve] for one in objectives.measured())
    return _gain(row, [float(np.interp(here, costs, own)) for own in values])


def _gain(row: Row, others: Sequence[float]) -> Gain:
    return {one.short: one.value(row) - other for one, other in zip(objectives.measured(), others, strict=True)}
