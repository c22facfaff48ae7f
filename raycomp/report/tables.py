"""Tables for the terminal: the front, the matched budgets, a profile, a recipe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from raycomp.flops import Profile
from raycomp.recipe import Recipe
from raycomp.report.compare import AtBudget, Comparison, Gain
from raycomp.report.figures import Figure
from raycomp.results.row import Row, timed
from raycomp.search.known import BASELINES

if TYPE_CHECKING:  # needs torch, which the other commands do without
    from raycomp.deploy.speed import Speed

_MIOUS = "clean_miou", "corrupted_miou"
_PLAIN_WIDTH = 140  # columns where the output is not a terminal


def console() -> Console:
    """A console that does not squeeze tables into 80 columns when its output is kept in a file."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_PLAIN_WIDTH)


def front_table(comparisons: Sequence[Comparison]) -> Table:
    """One line per front member; gains are clean / corrupted mIoU points."""
    in_time = any(timed(item.row) for item in comparisons)
    equal = "equal time" if in_time else "equal GFLOPs"
    title = f"Pareto front: mIoU in %; gains in points, clean / corrupted, over dense and uniform baselines at {equal}"
    table = Table(title=title, title_justify="left")
    table.add_column("recipe", no_wrap=True)
    table.add_column("family")
    versus = ("dense", *(kind.removeprefix("uniform ") for kind in BASELINES))
    costs = ("GFLOPs", "share", *(("ms", "of dense") if in_time else ()))
    for name in (*costs, "clean", "corrupted", *(f"vs {kind}" for kind in versus)):
        table.add_column(name, justify="right", no_wrap=True)
    for item in comparisons:
        row = item.row
        table.add_row(
            row["recipe_id"],
            row["label"] or row["family"],
            f"{row['gflops']:.4f}",
            f"{row['gflops_share']:.1%}",
            *((f"{row['predicted_ms']:.3g}", f"{row['predicted_share']:.1%}") if in_time else ()),
            f"{100 * row['clean_miou']:.2f}",
            f"{100 * row['corrupted_miou']:.2f}",
            _points(item.dense),
            *(_points(item.baselines[kind]) for kind in BASELINES),
        )
    return table


def budget_table(budgets: Sequence[AtBudget]) -> Table:
    """The best recipe found at each budget beside the baselines matched to it, clean / corrupted mIoU."""
    equal = "time" if any(item.best is not None and timed(item.best) for item in budgets) else "GFLOPs"
    table = Table(title=f"At matched {equal}: clean / corrupted mIoU in %", title_justify="left")
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


def _points(gain: Gain | None) -> str:
    return "" if gain is None else f"{100 * gain.clean:+.1f} / {100 * gain.corrupted:+.1f}"


def _both(row: Row | None) -> str:
    return "" if row is None else f"{100 * row['clean_miou']:.2f} / {100 * row['corrupted_miou']:.2f}"
