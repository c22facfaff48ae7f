"""The picture of a sweep: accuracy against GFLOPs or time, clean and corrupted, front and baselines."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from raycomp import objectives
from raycomp.files import written
from raycomp.objectives import COST, Objective
from raycomp.results.query import baseline_curve, baselines_of, completed, dense_row, final_front, refined_rows
from raycomp.results.row import Row
from raycomp.storage import AnyPath

if TYPE_CHECKING:  # needs torch
    from raycomp.deploy.speed import Speed

_BASELINES = (("#d1495b", "v"), ("#8d6a9f", "s"), ("#e09f3e", "D"))
"""Colours and markers of merging, pruning, and both."""
_FRONT, _REFINED = "#1b6ca8", "#3a7d44"


def plot_front(rows: Sequence[Row], budget_share: float, title: str, path: AnyPath) -> None:
    """Draw the measured objectives against what the sweep limits, side by side, into a PNG."""
    measured = objectives.measured()
    size = (5.5 * len(measured), 4.6)
    figure, grid = plt.subplots(1, len(measured), figsize=size, sharex=True, layout="constrained", squeeze=False)
    panels = grid[0]
    unit = "predicted milliseconds per batch" if any(row.timed for row in rows) else "GFLOPs per image"
    for axes, objective in zip(panels, measured, strict=True):
        _panel(axes, rows, budget_share, objective)
        axes.set(xlabel=unit, ylabel=objective.axis)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    with written(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def _panel(axes: Axes, rows: Sequence[Row], budget_share: float, objective: Objective) -> None:
    members = final_front(rows, budget_share)
    stage = members[0].stage if members else "search"
    trials = completed(rows, "search")
    axes.scatter(*_xy(trials, objective), s=12, color="0.75", label="trials (search stage: fewer images)", zorder=1)
    for kind, (color, marker) in zip(baselines_of(rows), _BASELINES, strict=True):
        curve = baseline_curve(rows, stage, kind)
        # Above the front, which may have the same recipe.
        axes.plot(*_xy(curve, objective), color=color, marker=marker, ms=4, lw=1.2, label=kind, zorder=5)
    # The front has more objectives: its members need not rise along this one.
    axes.scatter(*_xy(members, objective), s=46, color=_FRONT, edgecolor="white", label="Pareto front", zorder=4)
    axes.step(*_xy(_staircase(members, objective), objective), where="post", color=_FRONT, lw=1.5, zorder=3)
    if (whole := dense_row(rows, stage)) is not None:
        axes.scatter(*_xy([whole], objective), marker="*", s=170, color="black", label="dense", zorder=4)
        axes.axhline(objective.scaled(whole), color="black", lw=0.7, ls=":", zorder=0)
    if refined := refined_rows(rows):
        ids = sorted({row.recipe_id for row in refined}, key=lambda i: _mean(refined, i, COST.value))
        x, y = ([_mean(refined, i, value) for i in ids] for value in (COST.value, objective.value))
        axes.plot(
            x, [objective.factor * v for v in y], color=_REFINED, marker="o", ms=6, lw=1.5, label="refined", zorder=6
        )
    if objective.maximised:
        best = [objective.scaled(row) for row in (*members, *([] if whole is None else [whole]))]
        axes.set_ylim(bottom=axis_bottom(best))


def plot_speed(speeds: "Sequence[Speed]", title: str, path: AnyPath) -> None:
    """Draw speed gained against FLOPs saved, one line a runtime and batch, into a PNG; on the diagonal all is speed."""
    figure, axes = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
    most = max(s.saved for s in speeds)
    axes.plot([1, most], [1, most], color="black", lw=0.7, ls=":", label="all FLOPs saved are speed")
    for runtime, batch in dict.fromkeys((s.runtime, s.batch) for s in speeds):
        own = sorted((s for s in speeds if (s.runtime, s.batch) == (runtime, batch)), key=lambda s: s.saved)
        axes.plot([s.saved for s in own], [s.gained for s in own], marker="o", ms=5, label=f"{runtime}, batch {batch}")
    axes.set(xlabel="dense GFLOPs / the recipe's", ylabel="dense time / the recipe's")
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with written(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def axis_bottom(best: Sequence[float]) -> float:
    """Where the axis begins: a little below the front, so that near misses can be told apart; a cliff leaves it."""
    return max(0.0, min(best) - 0.4 * (max(best) - min(best)) - 1) if best else 0.0


def _mean(rows: Sequence[Row], recipe_id: str, value: Callable[[Row], float]) -> float:
    """Over the seeds of a recipe."""
    values = [float(value(row)) for row in rows if row.recipe_id == recipe_id]
    return sum(values) / len(values)


def _staircase(members: Sequence[Row], objective: Objective) -> list[Row]:
    """The members that are best in this one objective at their cost."""
    best, steps = -math.inf, []
    for row in members:
        value = objective.value(row) if objective.maximised else -objective.value(row)
        if value > best:
            best = value
            steps.append(row)
    return steps


def _xy(rows: Sequence[Row], objective: Objective) -> tuple[list[float], list[float]]:
    return [row.cost for row in rows], [objective.scaled(row) for row in rows]
