"""Which recipe of a sweep to take: the most accurate one within limits, or the cheapest that is accurate enough."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from raycomp import objectives
from raycomp.errors import UserError, nearest
from raycomp.objectives import CLEAN, CORRUPTED, Objective, mean_accuracy
from raycomp.results.pareto import front
from raycomp.results.query import class_names, completed, dense_row, final_stage
from raycomp.results.row import Row, present


@dataclass(frozen=True)
class Limits:
    """What a recipe must keep to; None for no limit. Drops are points of mIoU lost against dense, IoU is in [0, 1]."""

    gflops: float | None = None
    share: float | None = None
    """Of what the sweep limits: dense GFLOPs, or the dense model's time."""
    drop: float | None = None
    corrupted_drop: float | None = None
    class_iou: dict[str, float] = field(default_factory=dict)

    @property
    def of_cost(self) -> bool:
        """Whether the cost is limited, so that accuracy is what is left to choose by."""
        return self.gflops is not None or self.share is not None


def choose(rows: Sequence[Row], limits: Limits) -> list[Row]:
    """Recipes within the limits, the best first: by accuracy where cost is limited, else by cost.

    Accuracy is the mean of clean and corrupted mIoU. Rows are of the full stage, or of the search where it has
    none. Of what others dominate there is nothing, unless a class's IoU asks for it.

    Raises:
        UserError: where no recipe keeps to them, naming the limit and what comes nearest.
    """
    stage = final_stage(rows)
    left = completed(rows, stage)
    if not left:
        raise UserError("the sweep has no complete trial yet")
    whole = dense_row(rows, stage)
    tests = _tests(limits, left, whole)
    for text, least in tests:
        passed = [row for row in left if least(row) <= 0]
        if not passed:
            near = min(left, key=least)
            others = "" if text == tests[0][0] else " within the other limits"
            told = _told(near, whole, limits, class_names(rows))
            raise UserError(f"no recipe{others} has {text}; nearest: {near.recipe_id} with {told}")
        left = passed
    found = left if limits.class_iou else front(left)
    by_cost = sorted(found, key=lambda row: (row.cost, -mean_accuracy(row)))
    return sorted(by_cost, key=lambda row: -mean_accuracy(row)) if limits.of_cost else by_cost


def _tests(limits: Limits, rows: Sequence[Row], whole: Row | None) -> list[tuple[str, Callable[[Row], float]]]:
    """Each limit in words, and by how much a row is beyond it."""
    found: list[tuple[str, Callable[[Row], float]]] = []
    if limits.gflops is not None:
        most = limits.gflops
        found.append((f"at most {most:g} GFLOPs", lambda row: present(row.gflops) - most))
    if limits.share is not None:
        part = limits.share
        what = "time" if any(row.timed for row in rows) else "GFLOPs"
        found.append((f"at most {part:.3g} of the dense {what}", lambda row: row.cost_share - part))
    for objective, drop in ((CLEAN, limits.drop), (CORRUPTED, limits.corrupted_drop)):
        if drop is None:
            continue
        if whole is None:
            raise UserError(f"a limit of the {objective.short} drop needs the dense model, which is not measured yet")
        least = objective.value(whole) - drop / 100
        found.append((f"a {objective.title} of {objective.text(least)} % or more", partial(_lacks, objective, least)))
    names = class_names(rows)
    for name, iou in limits.class_iou.items():
        if name not in names:
            raise UserError(f"class {name!r}: {nearest(name, names)}")
        found.append((f"an IoU of {name} of {iou:g} or more", partial(_class_lacks, names.index(name), iou)))
    return found


def _lacks(objective: Objective, least: float, row: Row) -> float:
    return least - objective.value(row)


def _class_lacks(index: int, least: float, row: Row) -> float:
    value = float(row.class_iou[index])
    return least - (value if value == value else 0.0)  # a class that does not occur


def _told(row: Row, whole: Row | None, limits: Limits, names: Sequence[str]) -> str:
    figures = (f"{one.text(one.value(row))} {one.short}" for one in objectives.measured())
    text = f"{row.gflops:.4g} GFLOPs ({row.gflops_share:.1%}), {' and '.join(figures)}"
    if whole is not None:
        text += f" ({objectives.changes(row, [one.value(whole) for one in objectives.measured()], 2)})"
    return text + "".join(f", {name} {row.class_iou[names.index(name)]:.3f}" for name in limits.class_iou)
