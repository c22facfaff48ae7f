# SPDX-License-Identifier: Apache-2.0
"""Plots of a sweep: clean and corrupted accuracy against cost, with front and baselines; and speed against FLOPs."""

from collections.abc import Sequence
from operator import gt, lt
from statistics import fmean
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from raycomp import objectives
from raycomp.objectives import COST, Objective
from raycomp.recipe import PRECISIONS
from raycomp.report.drawing import finish, save, style
from raycomp.results.query import baseline_curve, completed, dense_row, final_front, refined_rows, uniform_baselines_of
from raycomp.results.row import Row
from raycomp.settings.amounts import Limit
from raycomp.storage import AnyPath

if TYPE_CHECKING:  # needs torch
    from raycomp.deploy.speed import Speed

_BASELINES = (("#d1495b", "v"), ("#8d6a9f", "s"), ("#e09f3e", "D"))
"""Colours and markers of the uniform baselines: merging, pruning, and both."""
_LEFT = 0.03  # of the axis, left of the cheapest front member
_FRONT, _REFINED = "#1b6ca8", "#3a7d44"
INT8 = "#12a5b8"
"""Colour of front members in INT8."""


def plot_front(rows: Sequence[Row], budget: Limit, title: str, path: AnyPath) -> None:
    """Plot the measured objectives against the cost, side by side, into a PNG."""
    measured = objectives.measured()
    size = (5.5 * len(measured), 4.6)
    figure, panels = plt.subplots(1, len(measured), figsize=size, sharex=True, layout="constrained", squeeze=False)
    unit = "predicted milliseconds per batch" if any(row.timed for row in rows) else "GFLOPs per image"
    for axes, objective in zip(panels[0], measured, strict=True):
        _panel(axes, rows, budget, objective)
        axes.set(xlabel=unit, ylabel=objective.axis)
    finish(figure, panels[0], title, path)


def _panel(axes: Axes, rows: Sequence[Row], budget: Limit, objective: Objective) -> None:
    members = final_front(rows, budget)
    stage = members[0].stage if members else "search"
    trials = completed(rows, "search")
    for in_precision, _, marker, label in _by_precision(trials, "trials, on fewer images"):
        axes.scatter(*_xy(in_precision, objective), s=12, color="0.75", marker=marker, label=label, zorder=1)
    for kind, (color, marker) in zip(uniform_baselines_of(rows), _BASELINES, strict=True):
        curve = baseline_curve(rows, stage, kind)
        # On top of the front, which may contain the same recipe.
        axes.plot(*_xy(curve, objective), color=color, marker=marker, ms=4, lw=1.2, label=kind, zorder=5)
    # The front has several objectives, so its members need not be monotonic in this one.
    for in_precision, color, marker, label in _by_precision(members, "Pareto front"):
        points = _xy(in_precision, objective)
        axes.scatter(*points, s=46, color=color, marker=marker, edgecolor="white", label=label, zorder=4)
    axes.step(*_xy(_staircase(members, objective), objective), where="post", color=_FRONT, lw=1.5, zorder=3)
    if (dense := dense_row(rows, stage)) is not None:
        axes.scatter(*_xy([dense], objective), marker="*", s=170, color="black", label="dense", zorder=4)
        axes.axhline(objective.scaled(dense), color="black", lw=0.7, ls=":", zorder=0)
    if refined := refined_rows(rows):
        seeds = [[row for row in refined if row.recipe_id == one] for one in {row.recipe_id for row in refined}]
        means = sorted((fmean(map(COST.value, rows)), fmean(map(objective.scaled, rows))) for rows in seeds)
        axes.plot(*zip(*means, strict=True), color=_REFINED, marker="o", ms=6, lw=1.5, label="refined", zorder=6)
    if members and objective.maximised:
        useful = max(map(objective.value, members)) / 2
        cheapest = next(row.cost for row in members if objective.value(row) >= useful)
        axes.set_xlim(left=cheapest - _LEFT * (axes.get_xlim()[1] - cheapest))
    if objective.maximised:
        best = [objective.scaled(row) for row in (*members, *([] if dense is None else [dense]))]
        axes.set_ylim(bottom=axis_bottom(best))


def plot_speed(speeds: "Sequence[Speed]", title: str, path: AnyPath) -> None:
    """Plot speed gained against FLOPs saved into a PNG, with a line per runtime and batch."""
    figure, axes = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
    maximum = max(s.saved for s in speeds)
    axes.plot([1, maximum], [1, maximum], color="black", lw=0.7, ls=":", label="speed gained = FLOPs saved")
    for runtime, batch in dict.fromkeys((s.runtime, s.batch) for s in speeds):
        line = sorted((s for s in speeds if (s.runtime, s.batch) == (runtime, batch)), key=lambda s: s.saved)
        label = f"{runtime}, batch {batch}"
        axes.plot([s.saved for s in line], [s.gained for s in line], marker="o", ms=5, label=label)
    axes.set(xlabel="dense GFLOPs / recipe GFLOPs", ylabel="dense time / recipe time")
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False)
    style(axes)
    save(figure, path)


def axis_bottom(best: Sequence[float]) -> float:
    """Return the lower end of the axis, a little below the front: near misses stay distinguishable, outliers leave.

    Members of the front below half of the best are outliers, too: they are only cheap.
    """
    useful = [value for value in best if value >= max(best) / 2]
    return max(0.0, min(useful) - 0.4 * (max(useful) - min(useful)) - 1) if useful else 0.0


def _by_precision(rows: Sequence[Row], label: str) -> list[tuple[list[Row], str, str, str]]:
    """Return the rows in float32, and those in INT8 if there are any: each with its colour, marker and label."""
    plain, quantised = ([row for row in rows if row.precision == one] for one in PRECISIONS)
    series = [(plain, _FRONT, "o", label)]
    return [*series, (quantised, INT8, "D", f"{label}, INT8")] if quantised else series


def _staircase(members: Sequence[Row], objective: Objective) -> list[Row]:
    """Return the members that are better in this objective than all cheaper ones."""
    steps: list[Row] = []
    better = gt if objective.maximised else lt
    for row in members:
        if not steps or better(objective.value(row), objective.value(steps[-1])):
            steps.append(row)
    return steps


def _xy(rows: Sequence[Row], objective: Objective) -> tuple[list[float], list[float]]:
    return [row.cost for row in rows], [objective.scaled(row) for row in rows]
