# SPDX-License-Identifier: Apache-2.0
"""Choice of a recipe: the most accurate one within limits, or the cheapest one that is accurate enough."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from raycomp import objectives
from raycomp.errors import UserError, nearest
from raycomp.objectives import CLEAN, CORRUPTED, Objective, mean_accuracy
from raycomp.report.row_costs import RowCost
from raycomp.results.pareto import front
from raycomp.results.query import class_names, completed, dense_row, final_stage
from raycomp.results.row import Row, present
from raycomp.settings.amounts import Amount, CostName, Limit, allowance, in_words


@dataclass(frozen=True)
class Limits:
    """Limits on a recipe; None for no limit. Drops are points of mIoU lost against dense, IoU is in [0, 1]."""

    gflops: float | None = None
    share: float | None = None
    """Maximum cost relative to dense, in the sweep's cost metric: GFLOPs or latency."""
    drop: float | None = None
    corrupted_drop: float | None = None
    class_iou: dict[str, float] = field(default_factory=dict)
    costs: Mapping[CostName, Limit] = field(default_factory=dict)
    """Limits on further costs, each an amount or a share of dense."""
    precision: str | None = None
    """The only precision of recipes; None for any."""

    @property
    def of_cost(self) -> bool:
        """Whether a cost is limited, so that recipes are ranked by accuracy."""
        return self.gflops is not None or self.share is not None or bool(self.costs)


def choose(rows: Sequence[Row], limits: Limits, costs: Mapping[CostName, RowCost] | None = None) -> list[Row]:
    """Return the recipes within the limits, the best first: by accuracy if a cost is limited, else by cost.

    Accuracy is the mean of clean and corrupted mIoU, at the sweep's final stage. Dominated recipes are excluded unless
    a class IoU is limited. If no recipe is left, a UserError names the limit and the nearest recipe.

    Args:
        costs: Those in `limits.costs`.
    """
    stage = final_stage(rows)
    left, dense = completed(rows, stage), dense_row(rows, stage)
    if not left:
        raise UserError("the sweep has no complete trial yet")
    tests = _tests(limits, left, dense) + _cost_tests(limits, costs or {}, dense)
    for text, excess in tests:
        passed = [row for row in left if excess(row) <= 0]
        if not passed:
            near = min(left, key=excess)
            others = "" if text == tests[0][0] else " within the other limits"
            figures = _figures(near, dense, limits, class_names(rows)) + "".join(
                f", {in_words(Amount(cost, name))}"
                for name, one in (costs or {}).items()
                if math.isfinite(cost := one.value(near))
            )
            raise UserError(f"no recipe{others} has {text}; nearest: {near.recipe_id} with {figures}")
        left = passed
    candidates = left if limits.class_iou else front(left)
    by_cost = sorted(candidates, key=lambda row: (row.cost, -mean_accuracy(row)))
    return sorted(by_cost, key=lambda row: -mean_accuracy(row)) if limits.of_cost else by_cost


def _tests(limits: Limits, rows: Sequence[Row], dense: Row | None) -> list[tuple[str, Callable[[Row], float]]]:
    """Return each limit in words, and a function for how far a row exceeds it."""
    tests: list[tuple[str, Callable[[Row], float]]] = []
    if limits.precision is not None:
        tests.append((f"precision {limits.precision}", lambda row: float(row.precision != limits.precision)))
    if limits.gflops is not None:
        maximum = limits.gflops
        tests.append((f"at most {maximum:g} GFLOPs", lambda row: present(row.gflops) - maximum))
    if limits.share is not None:
        share, metric = limits.share, "time" if any(row.timed for row in rows) else "GFLOPs"
        tests.append((f"at most {share:.3g} of the dense {metric}", lambda row: row.cost_share - share))
    for objective, drop in ((CLEAN, limits.drop), (CORRUPTED, limits.corrupted_drop)):
        if drop is None:
            continue
        if dense is None:
            raise UserError(f"a limit on the {objective.short} drop needs the dense model, which is not measured yet")
        minimum = objective.value(dense) - drop / 100
        words = f"a {objective.title} of {objective.text(minimum)} % or more"
        tests.append((words, partial(_shortfall, objective, minimum)))
    names = class_names(rows)
    for name, iou in limits.class_iou.items():
        if name not in names:
            raise UserError(f"class {name!r}: {nearest(name, names)}")
        tests.append((f"an IoU of {name} of {iou:g} or more", partial(_class_shortfall, names.index(name), iou)))
    return tests


def _cost_tests(
    limits: Limits, costs: Mapping[CostName, RowCost], dense: Row | None
) -> list[tuple[str, Callable[[Row], float]]]:
    """Return the limits on further costs in words, and functions as those of `_tests`."""
    tests: list[tuple[str, Callable[[Row], float]]] = []
    for name, limit in limits.costs.items():
        full = math.inf if dense is None else costs[name].value(dense)
        if not isinstance(limit, Amount) and not math.isfinite(full):
            raise UserError(f"a limit of {in_words(limit)} on {name} needs the dense model's, which is not known")
        maximum = allowance(limit, full)
        tests.append((f"at most {in_words(Amount(maximum, name))}", partial(_excess, costs[name], maximum)))
    return tests


def _excess(cost: RowCost, maximum: float, row: Row) -> float:
    return cost.value(row) - maximum


def _shortfall(objective: Objective, minimum: float, row: Row) -> float:
    return minimum - objective.value(row)


def _class_shortfall(index: int, minimum: float, row: Row) -> float:
    value = float(row.class_iou[index])
    return minimum - (value if value == value else 0.0)  # NaN: the class does not occur


def _figures(row: Row, dense: Row | None, limits: Limits, names: Sequence[str]) -> str:
    figures = (f"{one.text(one.value(row))} {one.short}" for one in objectives.measured())
    text = f"{row.gflops:.4g} GFLOPs ({row.gflops_share:.1%}), {' and '.join(figures)}"
    if dense is not None:
        text += f" ({objectives.changes(row, dense, 2)})"
    return text + "".join(f", {name} {row.class_iou[names.index(name)]:.3f}" for name in limits.class_iou)
