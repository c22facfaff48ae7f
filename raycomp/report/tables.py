# SPDX-License-Identifier: Apache-2.0
"""Tables for the terminal: fronts, budgets, profiles, recipes, sweeps, plans and speeds."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from raycomp import objectives
from raycomp.config import SweepConfig
from raycomp.flops import Profile
from raycomp.recipe import Recipe
from raycomp.report.compare import Comparison, Gain
from raycomp.report.confidence import Confidence
from raycomp.report.figures import Figure, duration, moment
from raycomp.report.fitted import Column, FittedTable
from raycomp.results.query import AtBudget, Origins, at_budgets, counted, origins, uniform_baselines
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.settings.amounts import Amount, in_words
from raycomp.settings.space_and_search import LimitsConfig

if TYPE_CHECKING:  # needs torch, which most commands do not load
    from raycomp.deploy.speed import Speed
    from raycomp.report.solved import Answer
    from raycomp.report.status import Status
    from raycomp.report.sweep_view import SweepView
    from raycomp.search.plan import Plan
    from raycomp.search.solutions import Estimate

_NAMED = Column("recipe", text=True), Column("family", text=True, under="recipe")
_AS_GOOD = Column("as good", text=True, under="recipe")
_INTERVALS = "±: 95 % interval over draws of the images; as good: a cheaper recipe not significantly less accurate"
_PLAIN_WIDTH = 1000  # columns if the output is not a terminal; all tables fit


def console(aside: bool = False) -> Console:
    """Return a console, on stderr if `aside`, that does not fold tables to 80 columns when it writes to a file."""
    # without markup and emoji, it prints a path such as a[b]:c: unchanged
    plain = partial(Console, stderr=aside, markup=False, emoji=False, highlight=False)
    terminal = plain()
    return terminal if terminal.is_terminal else plain(width=_PLAIN_WIDTH)


def say(line: str, aside: bool = False, style: str = "") -> None:
    """Print a line without wrapping it, on stderr if `aside`."""
    console(aside).print(line, style=style, soft_wrap=True)


def front_table(comparisons: Sequence[Comparison], in_time: bool, of: Origins) -> FittedTable:
    """Return one line per front member; gains are points. `of` counts the recipes that the front was chosen from.

    `in_time` says whether latency is the cost metric, which does not follow from an empty front.
    """
    equal = "time" if in_time else "GFLOPs"
    gains = f"gains in points, {objectives.shorts()}, over dense and uniform baselines at equal {equal}"
    title = f"Pareto front{_stage([item.row for item in comparisons])}: mIoU in %; {gains}"
    confident = any(item.confidence is not None for item in comparisons)
    kinds = tuple(comparisons[0].baselines) if comparisons else uniform_baselines()
    versus = [Column(f"vs {kind.removeprefix('uniform ')}", under="vs dense") for kind in kinds]
    costs = [Column("GFLOPs"), Column("share", under="GFLOPs")]
    if in_time:
        costs += [Column("ms", under="GFLOPs"), Column("of dense", under="GFLOPs")]
    columns = [*_NAMED, *costs, *_measured(), Column("vs dense"), *versus, *([_AS_GOOD] if confident else [])]
    notes = [str(of), *([_INTERVALS] if confident else [])]
    notes += [] if comparisons else ["no recipe within the budget has been measured"]
    table = FittedTable(title, columns, "\n".join(notes))
    for item in comparisons:
        row = item.row
        table.add_row(
            row.recipe_id, row.kind, f"{row.gflops:.4f}", f"{row.gflops_share:.1%}",
            *((f"{row.predicted_ms:.3g}", f"{row.predicted_share:.1%}") if in_time else ()),
            *_with_intervals(row, item.confidence), _points(item.dense),
            *(_points(item.baselines[kind]) for kind in kinds), *([_tie(item.confidence)] if confident else []),
        )  # fmt: skip
    return table


def budget_table(budgets: Sequence[AtBudget], of: Origins) -> FittedTable:
    """Return the best recipe at each budget beside the uniform baselines matched to it."""
    equal = "time" if any(item.best is not None and item.best.timed for item in budgets) else "GFLOPs"
    title = f"At matched {equal}: {objectives.shorts()} mIoU in %"
    kinds = tuple(budgets[0].baselines) if budgets else uniform_baselines()
    columns = [Column("budget"), Column(of.best), *(Column(kind, under=of.best) for kind in kinds)]
    caption = f"{of.best}: the front member within the budget with the highest mean of clean and corrupted mIoU"
    table = FittedTable(title, columns, caption)
    for item in budgets:
        table.add_row(f"{item.share:.0%}", _both(item.best), *(_both(item.baselines[kind]) for kind in kinds))
    return table


def profile_table(costs: Sequence[tuple[str, Profile]]) -> FittedTable:
    """Return tokens and GFLOPs of each block, with a pair of columns per recipe."""
    pairs = [(f"{name}\ntokens", "\nGFLOPs") for name, _ in costs]
    columns = [column for tokens, gflops in pairs for column in (Column(tokens), Column(gflops, under=tokens))]
    table = FittedTable("Tokens and GFLOPs by block", [Column("block"), *columns])
    table.add_row("embedding", *(cell for _, cost in costs for cell in ("", f"{cost.embedding:.4f}")))
    for block in range(len(costs[0][1].blocks)):
        cells = (c for _, cost in costs for c in (str(cost.tokens[block]), f"{cost.blocks[block]:.4f}"))
        table.add_row(str(block), *cells)
    table.add_row("decoder", *(cell for _, cost in costs for cell in ("", f"{cost.decoder:.4f}")))
    table.add_section()
    table.add_row("total", *(cell for _, cost in costs for cell in ("", f"{cost.gflops:.4f}")))
    return table


def settings_table(costs: Mapping[str, Profile]) -> FittedTable:
    """Return the costs of merge method settings; the first is dense."""
    figures = Column("tokens left"), Column("GFLOPs"), Column("of dense", under="GFLOPs")
    table = FittedTable("Settings of merge methods", [Column("setting", text=True), *figures])
    dense_cost = next(iter(costs.values())).gflops
    for name, cost in costs.items():
        table.add_row(name, str(cost.tokens[-1]), f"{cost.gflops:.4f}", f"{cost.gflops / dense_cost:.1%}")
    return table


def recipe_table(recipe: Recipe, cost: Profile, dense: Profile) -> FittedTable:
    """Return a recipe by block: widths, merging, tokens and GFLOPs."""
    names = "block", "heads", "QK", "V", "MLP", "merged", "tokens", "GFLOPs", "of dense"
    pairs = {"QK": "heads", "V": "heads", "MLP": "heads", "tokens": "merged", "of dense": "GFLOPs"}
    columns = [*(Column(name, under=pairs.get(name, "")) for name in names), Column("", text=True, optional=True)]
    precision = "" if recipe.precision == "fp32" else ", linear maps in INT8"
    title = f"Recipe {recipe.id}, embedding width {recipe.embed}{precision}"
    note = "" if recipe.merge is None or not recipe.merge.note else f"; {recipe.merge.note}"
    table = FittedTable(title, columns, f"all: including embedding and decoder{note}")
    for index, (block, ratio) in enumerate(zip(recipe.blocks, recipe.ratios, strict=True)):
        share = cost.blocks[index] / dense.blocks[index]
        bar = "█" * (max(1, round(20 * share)) if share else 0)
        table.add_row(
            str(index), str(block.heads), str(block.qk), str(block.v), str(block.mlp), f"{ratio:.1%}",
            str(cost.tokens[index]), f"{cost.blocks[index]:.4f}", f"{share:.0%}", bar,
        )  # fmt: skip
    table.add_section()
    share = cost.gflops / dense.gflops
    table.add_row("all", "", "", "", "", "", "", f"{cost.gflops:.4f}", f"{share:.0%}", "")
    return table


def refined_table(front: Sequence[Row], refined: Sequence[Row], dense: Row | None) -> FittedTable:
    """Return front members before and after refining; refined values are means and 95 % intervals over seeds."""
    title = f"Refined front: mIoU in %, {objectives.shorts()}; points against dense"
    refined_columns = _measured("refined ")
    columns = [_NAMED[0], Column("GFLOPs"), Column("share", under="GFLOPs"), Column("before"), *refined_columns]
    table = FittedTable(title, [*columns, Column("vs dense", under="before")])
    measured = objectives.measured()
    for row in front:
        seeds = [r for r in refined if r.recipe_id == row.recipe_id and r.status == "complete"]
        figures = [(one, Figure.of([one.value(r) for r in seeds])) for one in measured] if seeds else []
        texts = [figure.text(one.factor) for one, figure in figures]
        gains = [] if dense is None else [one.change(figure.mean - one.value(dense)) for one, figure in figures]
        table.add_row(
            row.recipe_id, f"{row.gflops:.4f}", f"{row.gflops_share:.1%}", _both(row),
            *(texts or ["failed", *[""] * (len(measured) - 1)]), " / ".join(gains),
        )  # fmt: skip
    return table


def picked_table(
    rows: Sequence[Row],
    dense: Row | None,
    classes: Mapping[str, int],
    order: str,
    confidences: Mapping[str, Confidence],
) -> FittedTable:
    """Return the picked recipe and the next best, with the IoU of each class whose index is given."""
    in_time = any(row.timed for row in rows)
    costs = Column("ms" if in_time else "GFLOPs"), Column("of dense", under="ms" if in_time else "GFLOPs")
    by_class = [Column(name, under=next(iter(classes))) for name in classes]
    columns = [*_NAMED, *costs, *_measured(), Column("vs dense"), *by_class, *([_AS_GOOD] if confidences else [])]
    title = f"{order} first: mIoU in %{_stage(rows)}, points against dense"
    table = FittedTable(title, columns, _INTERVALS if confidences else "")
    for row in rows:
        change = "" if dense is None else objectives.changes(row, dense)
        confidence = confidences.get(row.recipe_id)
        ious = [f"{row.class_iou[index]:.3f}" for index in classes.values()]
        table.add_row(
            row.recipe_id, row.kind, f"{row.cost:.4g}", f"{row.cost_share:.1%}",
            *_with_intervals(row, confidence), change, *ious,
            *([_tie(confidence)] if confidences else []), style="bold" if row is rows[0] else "",
        )  # fmt: skip
    return table


def solved_table(answer: "Answer") -> FittedTable:
    """Return solutions with their expected mIoUs, each above its measurement if it has one, and the best measured."""
    names = {"gflops": "GFLOPs", "gflops_share": "of dense", "params": "params M", "ms": "ms"}
    names |= {"memory": "memory MB", "file": "file MB"}
    shown = {"gflops": "{:.4f}", "gflops_share": "{:.1%}", "params": "{:.3f}", "ms": "{:.3g}"}
    shown |= {"memory": "{:.2f}", "file": "{:.2f}"}
    costs = answer.costs(answer.solutions[0].recipe) if answer.solutions else {}
    columns = [Column("", text=True), *_NAMED, *(Column(names[name], under="GFLOPs") for name in costs), *_measured()]
    on = "" if answer.stage == "full" else " by the search stage, on fewer images"
    note = "in brackets: 95 % interval of the model; ±: 95 % interval over draws of the images"
    table = FittedTable(f"Within the limits: mIoU in %{on}", columns, note)

    def add(name: str, recipe: Recipe, kind: str, figures: Sequence[str], style: str = "") -> None:
        units = {"params": 1e-6, "memory": 1e-6, "file": 1e-6}
        cells = (shown[one].format(value * units.get(one, 1.0)) for one, value in answer.costs(recipe).items())
        table.add_row(name, recipe.id, kind, *cells, *figures, style=style)

    def add_measured(name: str, row: Row) -> None:
        add(name, row.recipe, row.kind, _with_intervals(row, answer.confidences.get(row.recipe_id)))

    for number, one in enumerate(answer.solutions, start=1):
        figures = [_expected(of, one.mious[of.name]) if of.name in one.mious else "" for of in objectives.measured()]
        family = one.recipe.family(answer.problem.space.shape)
        add(f"solution {number}", one.recipe, family, figures, "bold" if number == 1 else "")
        if (row := answer.measured.get(one.recipe.id)) is not None:
            add_measured("its measurement", row)
    if answer.best is not None:
        add_measured("best measured", answer.best)
    return table


def sweeps_table(sweeps: "Sequence[SweepView]") -> FittedTable:
    """Return sweeps side by side, with the best recipe of each at the budgets of the first."""
    shares = sweeps[0].config.search.shares(sweeps[0].share)
    title = f"Sweeps: best {objectives.shorts()} mIoU in % at shares of the dense cost"
    numbers = [Column(name, under="trials") for name in ("trials", "proposed", "on the front", "hypervolume")]
    best_at = [Column(f"{share:.0%}", under=f"{shares[0]:.0%}") for share in shares]
    table = FittedTable(title, [Column("sweep", text=True), *numbers, *best_at])
    for sweep in sweeps:
        best = at_budgets(sweep.rows, shares, sweep.share)
        counts = sweep.spent, origins(sweep.rows).proposed, len(sweep.front)
        volume = "" if (value := sweep.hypervolume()) is None else f"{value:.4f}"
        table.add_row(sweep.name, *map(str, counts), volume, *(_both(at.best) for at in best))
    return table


def status_table(statuses: "Sequence[Status]") -> FittedTable:
    """Return the sweeps of a results folder and their status."""
    numbers = [Column(name, under="trials") for name in ("trials", "failed", "full set", "on the front")]
    moments = Column("time left", under="state"), Column("last row", under="state")
    columns = [Column("sweep", text=True), Column("state", text=True), *numbers, *moments]
    table = FittedTable("Sweeps, most recently written first", [*columns, Column("by", text=True, under="state")])
    for s in statuses:
        last = "" if s.last is None else moment(s.last)
        searched = f"{s.trials}/{s.wanted}" if s.trials or not s.full else ""  # else a re-ranked sweep without a search
        counts = searched, str(s.failed or ""), str(s.full or ""), str(s.front or "")
        left = "" if s.left is None else duration(s.left)
        table.add_row(s.sweep, s.state, *counts, left, last, s.writer)
    return table


def plan_table(config: SweepConfig, plan: "Plan", gflops: float, store: Store) -> FittedTable:
    """Return what a sweep would run, and how long it would take."""
    search = config.search
    columns = Column("item", text=True), Column("value", text=True)
    table = FittedTable(f"{config.name}, not started", columns, with_names=False)
    in_share = not isinstance(search.budget, Amount)
    limit = (
        f" = {gflops:.4g} GFLOPs" if search.cost_metric == "gflops" and in_share else ", in time" if in_share else ""
    )
    beside = {name: value for name in LimitsConfig.model_fields if (value := getattr(search.limits, name)) is not None}
    done = f", {plan.done} measured already" if plan.done else ""
    trials = f"{search.trials}: {counted(plan.baselines)}, {plan.proposed} proposed by {search.sampler}{done}"
    hours = _range(duration(3600 * plan.hours_least), duration(3600 * plan.hours))
    passes = f"{plan.pass_ms:.2f} ms per window dense, {plan.limit_ms:.2f} ms at the budget"
    table.add_row("budget", f"{in_words(search.budget)}{' of dense' if in_share else ''}{limit}")
    if beside:
        table.add_row("limits", ", ".join(f"{name} {in_words(value)}" for name, value in beside.items()))
    table.add_row("trials", trials)
    full = _range(str(plan.full_least), str(plan.full))
    table.add_row("full evaluations", f"{full} recipes: dense, baselines, front")
    windows = f", {plan.windows} windows each" if plan.windows > 1 else ""
    training = f"; training costs as much as {plan.trained:,} windows" if plan.trained else ""
    images = _range(f"{plan.images_least:,}", f"{plan.images:,}")
    table.add_row("images to evaluate", f"{images}{windows}{training}")
    table.add_row("time", f"{hours} of model time on one {plan.device} ({passes})")
    table.add_row("results", str(store.folder))
    return table


def speed_table(speeds: "Sequence[Speed]") -> FittedTable:
    """Return models by runtime and batch, compared with the dense model in the same run."""
    others = (Column(name, text=True, under="model") for name in ("runtime", "precision"))
    names = Column("model", text=True), *others
    upper, lower = ("batch", "latency ms", "FLOPs saved"), ("GFLOPs", "images/s", "speed gained")
    figures = [one for a, b in zip(upper, lower, strict=True) for one in (Column(a), Column(b, under=a))]
    columns = [*names, *figures, Column("gained / saved"), Column("", under="gained / saved")]
    table = FittedTable("Speed as deployed: do saved FLOPs become speed?", columns)
    for s in speeds:
        table.add_row(
            s.model, s.runtime, s.precision, str(s.batch), f"{s.gflops:.4g}", f"{s.latency_ms:.2f}",
            f"{s.images_per_second:.1f}", f"{s.saved:.2f}x", f"{s.gained:.2f}x", f"{s.ratio:.2f}",
            "saves no time" if s.in_vain else "",
        )  # fmt: skip
    return table


def _range(low: str, high: str) -> str:
    return high if low == high else f"{low} to {high}"


def _stage(rows: Sequence[Row]) -> str:
    """Return the note that rows are from the search stage; empty for other stages."""
    return " by the search stage, on fewer images" if any(row.stage == "search" for row in rows) else ""


def _with_intervals(row: Row, confidence: Confidence | None) -> list[str]:
    """Return the measured objectives, with half their intervals if known."""
    halves = [confidence.half_width(one.short) if confidence else None for one in objectives.measured()]
    return [
        one.text(one.value(row)) + ("" if half is None else f" ±{one.text(half, 1)}")
        for one, half in zip(objectives.measured(), halves, strict=True)
    ]


def _expected(objective: objectives.Objective, estimate: "Estimate") -> str:
    """Format an expected value with its interval: `69.16 (67.2 to 70.4)`."""
    low, high = objective.text(estimate.low, 1), objective.text(estimate.high, 1)
    return f"{objective.text(estimate.expected)} ({low} to {high})"


def _measured(prefix: str = "") -> list[Column]:
    """Return columns of the measured objectives; narrow terminals stack them under the first."""
    first, *others = (prefix + one.short for one in objectives.measured())
    return [Column(first), *(Column(name, under=first) for name in others)]


def _tie(confidence: Confidence | None) -> str:
    return (confidence.tie or "")[:6] if confidence else ""


def _points(gain: Gain | None) -> str:
    return "" if gain is None else " / ".join(one.change(gain[one.short]) for one in objectives.measured())


def _both(row: Row | None) -> str:
    return "" if row is None else objectives.both(row)
