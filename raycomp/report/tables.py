"""Tables for the terminal: the front, the matched budgets, a profile, a recipe."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from raycomp.config import SweepConfig
from raycomp.flops import Profile
from raycomp.recipe import Recipe
from raycomp.report.compare import AtBudget, Comparison, Gain, at_budgets
from raycomp.report.figures import Figure
from raycomp.results.row import Row, cost_share, timed
from raycomp.results.row import cost as cost_of
from raycomp.results.store import Store
from raycomp.search.known import BASELINES

if TYPE_CHECKING:  # needs torch, which the other commands do without
    from raycomp.deploy.speed import Speed
    from raycomp.report.found import Found
    from raycomp.report.status import Status
    from raycomp.search.plan import Plan

_MIOUS = "clean_miou", "corrupted_miou"
_PLAIN_WIDTH = 170  # columns where the output is not a terminal


def console(aside: bool = False) -> Console:
    """A console that does not squeeze tables into 80 columns when its output is kept in a file.

    Args:
        aside: stderr, for what is said beside JSON.
    """
    plain = partial(Console, stderr=aside, markup=False, emoji=False)  # a path such as a[b]:c: keeps its signs
    terminal = plain()
    return terminal if terminal.is_terminal else plain(width=_PLAIN_WIDTH)


def front_table(comparisons: Sequence[Comparison], in_time: bool) -> Table:
    """One line per front member; gains are clean / corrupted mIoU points.

    Args:
        in_time: whether the sweep limits time, which an empty front does not tell.
    """
    equal = "equal time" if in_time else "equal GFLOPs"
    title = f"Pareto front: mIoU in %; gains in points, clean / corrupted, over dense and uniform baselines at {equal}"
    table = Table(title=title, title_justify="left")
    table.add_column("recipe", no_wrap=True)
    table.add_column("family")
    sure = any(item.trust is not None for item in comparisons)
    versus = ("dense", *(kind.removeprefix("uniform ") for kind in BASELINES))
    costs = ("GFLOPs", "share", *(("ms", "of dense") if in_time else ()))
    for name in (*costs, "clean", "corrupted", *(f"vs {kind}" for kind in versus)):
        table.add_column(name, justify="right", no_wrap=True)
    if sure:
        table.add_column("as good", no_wrap=True)
        table.caption = "±: 95 % over draws of the images; as good: a cheaper recipe that these cannot tell from it"
        table.caption_justify = "left"
    if not comparisons:
        table.caption, table.caption_justify = "no recipe within the limit is measured", "left"
    for item in comparisons:
        row = item.row
        table.add_row(
            row["recipe_id"],
            row["label"] or row["family"],
            f"{row['gflops']:.4f}",
            f"{row['gflops_share']:.1%}",
            *((f"{row['predicted_ms']:.3g}", f"{row['predicted_share']:.1%}") if in_time else ()),
            *_with_intervals(item),
            _points(item.dense),
            *(_points(item.baselines[kind]) for kind in BASELINES),
            *([(item.trust.tie or "")[:6] if item.trust else ""] if sure else []),
        )
    return table


def budget_table(budgets: Sequence[AtBudget]) -> Table:
    """The best recipe found at each budget beside the baselines matched to it, clean / corrupted mIoU."""
    equal = "time" if any(item.best is not None and timed(item.best) for item in budgets) else "GFLOPs"
    title = f"At matched {equal}: clean / corrupted mIoU in %"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = "best found: of the front within the budget, the highest mean of clean and corrupted"
    for name in ("budget", "best found", *BASELINES):
        table.add_column(name, justify="right")
    for item in budgets:
        table.add_row(f"{item.share:.0%}", _both(item.best), *(_both(item.baselines[kind]) for kind in BASELINES))
    return table


def profile_table(costs: Sequence[tuple[str, Profile]]) -> Table:
    """Tokens and GFLOPs of each block, a column pair per recipe."""
    table = Table(title="Tokens and GFLOPs by block", title_justify="left")
    table.add_column("block", justify="right")
    for name, _ in costs:
        table.add_column(f"{name}\ntokens", justify="right")
        table.add_column("\nGFLOPs", justify="right")
    table.add_row("embedding", *(cell for _, cost in costs for cell in ("", f"{cost.embedding:.4f}")))
    for block in range(len(costs[0][1].blocks)):
        cells = (c for _, cost in costs for c in (str(cost.tokens[block]), f"{cost.blocks[block]:.4f}"))
        table.add_row(str(block), *cells)
    table.add_row("decoder", *(cell for _, cost in costs for cell in ("", f"{cost.decoder:.4f}")))
    table.add_section()
    table.add_row("total", *(cell for _, cost in costs for cell in ("", f"{cost.gflops:.4f}")))
    return table


def settings_table(costs: Mapping[str, Profile]) -> Table:
    """What settings of the merging methods cost; the first one is dense."""
    table = Table(title="Settings of merging methods", title_justify="left")
    for name in ("setting", "tokens left", "GFLOPs", "of dense"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    full = next(iter(costs.values())).gflops
    for name, cost in costs.items():
        table.add_row(name, str(cost.tokens[-1]), f"{cost.gflops:.4f}", f"{cost.gflops / full:.1%}")
    return table


def recipe_table(recipe: Recipe, cost: Profile, dense: Profile) -> Table:
    """A recipe along the depth: widths, merging and where the GFLOPs went."""
    table = Table(title=f"Recipe {recipe.id}, embedding width {recipe.embed}", title_justify="left")
    for name in ("block", "heads", "QK", "V", "MLP", "merged", "tokens", "GFLOPs", "of dense", ""):
        table.add_column(name, justify="left" if not name else "right")
    for index, (block, ratio) in enumerate(zip(recipe.blocks, recipe.ratios, strict=True)):
        share = cost.blocks[index] / dense.blocks[index]
        table.add_row(
            str(index), str(block.heads), str(block.qk), str(block.v), str(block.mlp), f"{ratio:.1%}",
            str(cost.tokens[index]), f"{cost.blocks[index]:.4f}", f"{share:.0%}", "█" * max(1, round(20 * share)),
        )  # fmt: skip
    table.add_section()
    share = cost.gflops / dense.gflops
    table.add_row("all", "", "", "", "", "", "", f"{cost.gflops:.4f}", f"{share:.0%}", "with embedding and decoder")
    return table


def refined_table(found: Sequence[Row], refined: Sequence[Row], whole: Row | None) -> Table:
    """Front members as they were found and as they were refined, mean and 95 % interval over seeds."""
    table = Table(title="Refined front: mIoU in %, clean / corrupted; points against dense", title_justify="left")
    for name in ("recipe", "GFLOPs", "share", "as found", "refined clean", "refined corrupted", "vs dense"):
        table.add_column(name, justify="left" if name == "recipe" else "right", no_wrap=True)
    for row in found:
        own = [r for r in refined if r["recipe_id"] == row["recipe_id"] and r["status"] == "complete"]
        clean, corrupted = (Figure.of([r[name] for r in own]) if own else None for name in _MIOUS)
        against = (
            ""
            if clean is None or corrupted is None or whole is None
            else f"{100 * (clean.mean - whole[_MIOUS[0]]):+.1f} / {100 * (corrupted.mean - whole[_MIOUS[1]]):+.1f}"
        )
        table.add_row(
            row["recipe_id"], f"{row['gflops']:.4f}", f"{row['gflops_share']:.1%}", _both(row),
            "failed" if clean is None else clean.percent(), "" if corrupted is None else corrupted.percent(), against,
        )  # fmt: skip
    return table


def picked_table(rows: Sequence[Row], whole: Row | None, classes: Mapping[str, int], order: str) -> Table:
    """The recipe that was picked and those next to it, with the classes that were asked about, by index."""
    table = Table(title=f"{order} first: mIoU in %, points against dense", title_justify="left")
    in_time = any(timed(row) for row in rows)
    cost_names = ("ms", "of dense") if in_time else ("GFLOPs", "of dense")
    for name in ("recipe", "family", *cost_names, "clean", "corrupted", "vs dense", *classes):
        table.add_column(name, justify="left" if name in ("recipe", "family") else "right", no_wrap=True)
    for row in rows:
        lost = [] if whole is None else [100 * (row[name] - whole[name]) for name in _MIOUS]
        asked = [f"{row['class_iou'][index]:.3f}" for index in classes.values()]
        table.add_row(
            row["recipe_id"], row["label"] or row["family"], f"{cost_of(row):.4g}", f"{cost_share(row):.1%}",
            f"{100 * row['clean_miou']:.2f}", f"{100 * row['corrupted_miou']:.2f}",
            " / ".join(f"{points:+.1f}" for points in lost), *asked, style="bold" if row is rows[0] else "",
        )  # fmt: skip
    return table


def sweeps_table(sweeps: "Sequence[Found]") -> Table:
    """Sweeps beside each other, and the best recipe of each at the budgets of the first."""
    shares = sorted(sweeps[0].config.search.known, reverse=True)
    table = Table(title="Sweeps: best clean / corrupted mIoU in % at shares of the dense cost", title_justify="left")
    table.add_column("sweep", no_wrap=True)
    for name in ("trials", "on the front", "hypervolume", *(f"{share:.0%}" for share in shares)):
        table.add_column(name, justify="right", no_wrap=True)
    for found in sweeps:
        best = at_budgets(found.rows, shares, found.share)
        counts = (
            str(len(found.trials)),
            str(len(found.front)),
            "" if (volume := found.hypervolume()) is None else f"{volume:.4f}",
        )
        table.add_row(found.name, *counts, *(_both(at.best) for at in best))
    return table


def status_table(statuses: "Sequence[Status]") -> Table:
    """Sweeps of a results folder and how far they are."""
    table = Table(title="Sweeps, the one last written to first", title_justify="left")
    for name in ("sweep", "state", "trials", "failed", "full set", "on the front", "last row", "by"):
        table.add_column(name, justify="left" if name in ("sweep", "state", "by") else "right", no_wrap=True)
    for s in statuses:
        last = "" if s.last is None else f"{s.last.astimezone():%Y-%m-%d %H:%M:%S}"
        searched = f"{s.trials}/{s.wanted}" if s.trials or not s.full else ""  # else measured elsewhere only
        counts = searched, str(s.failed or ""), str(s.full or ""), str(s.front or "")
        table.add_row(s.sweep, s.state, *counts, last, s.writer)
    return table


def plan_table(config: SweepConfig, plan: "Plan", gflops: float, store: Store) -> Table:
    """What a sweep would run."""
    search = config.search
    table = Table(title=f"{config.name}, not started", title_justify="left", show_header=False)
    limit = f"{search.budget:.0%} of dense" + (f" = {gflops:.4g} GFLOPs" if search.limit == "gflops" else ", in time")
    there = f", {plan.done} measured already" if plan.done else ""
    trials = f"{search.trials}: {plan.known} known recipes, {plan.proposed} proposed by {search.sampler}{there}"
    hours = f"{plan.hours:.2f} hours of one such {plan.device}, were all models dense ({plan.pass_ms:.2f} ms a window)"
    table.add_row("limit", limit)
    table.add_row("trials", trials)
    table.add_row("at the end, on the full set", f"at most {plan.full} recipes: dense, baselines, front")
    windows = f", {plan.windows} windows of each" if plan.windows > 1 else ""
    training = f"; training as long as {plan.trained:,} windows" if plan.trained else ""
    table.add_row("images through a model", f"{plan.images:,}{windows}{training}")
    table.add_row("that is", hours)
    table.add_row("results", str(store.folder))
    return table


def speed_table(speeds: "Sequence[Speed]") -> Table:
    """Models by runtime and batch, against the dense model in the same run."""
    table = Table(title="Speed as deployed: does what is saved become speed?", title_justify="left")
    for name in ("model", "runtime"):
        table.add_column(name, no_wrap=True)
    for name in ("batch", "GFLOPs", "latency ms", "images/s", "FLOPs saved", "speed gained", "gained / saved", ""):
        table.add_column(name, justify="right")
    for s in speeds:
        table.add_row(
            s.model, s.runtime, str(s.batch), f"{s.gflops:.4g}", f"{s.latency_ms:.2f}", f"{s.images_per_second:.1f}",
            f"{s.saved:.2f}x", f"{s.gained:.2f}x", f"{s.ratio:.2f}", "saves no time" if s.in_vain else "",
        )  # fmt: skip
    return table


def _with_intervals(item: Comparison) -> list[str]:
    """Clean and corrupted mIoU, with half of their intervals where there are such."""
    halves = item.trust.half_widths if item.trust else (0.0, 0.0)
    return [
        f"{100 * item.row[name]:.2f}" + (f" ±{100 * half:.1f}" if item.trust else "")
        for name, half in zip(_MIOUS, halves, strict=True)
    ]


def _points(gain: Gain | None) -> str:
    return "" if gain is None else f"{100 * gain.clean:+.1f} / {100 * gain.corrupted:+.1f}"


def _both(row: Row | None) -> str:
    return "" if row is None else f"{100 * row['clean_miou']:.2f} / {100 * row['corrupted_miou']:.2f}"
