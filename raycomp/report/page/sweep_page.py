"""Write the page of a sweep, or of several compared: one file, with its data and plotly.js inside."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raycomp import objectives
from raycomp.files import written
from raycomp.report.compare import Comparison, rank_text
from raycomp.report.figures import duration, moment
from raycomp.report.page.charts import beside_paper_figure, front_figure, fronts_figure, history_figure
from raycomp.report.page.importance import importance
from raycomp.report.page.recipe_charts import (
    class_changes,
    class_figure,
    corruption_figure,
    depth_figure,
    importance_figure,
)
from raycomp.report.published import comparability
from raycomp.report.sweep_view import SweepView, difference, named
from raycomp.results.query import agreement, at_budgets, baselines_of, first_agreement, origins, stage_agreement
from raycomp.results.row import Row, present
from raycomp.storage import AnyPath

_BROKEN = 3  # classes that are named as what broke, at most
_HARM = 1.0  # points of IoU that a class lost at least to be named
_LOSSES = (1, 2, 5)  # points of mIoU against dense that a reader may bear


def write_page(sweeps: Sequence[SweepView], path: AnyPath) -> None:
    """Write the page: all about the first sweep; of the others, what compares them with it."""
    found = sweeps[0]
    figures = {"front": front_figure(found)}
    if any(one.hypervolumes for one in sweeps):
        figures["history"] = history_figure(sweeps)
    if found.dense is not None:
        figures["paper"] = beside_paper_figure(found)
    if shares := importance(found):
        figures["importance"] = importance_figure(shares)
    if len(sweeps) > 1:
        figures["fronts"] = fronts_figure(sweeps)
    comparisons = found.comparisons
    data = {
        "figures": {name: _plain(figure) for name, figure in figures.items()},
        "recipes": {item.row.recipe_id: _recipe(item, found) for item in comparisons},
    }
    environment = Environment(loader=PackageLoader("raycomp.report.page"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "both": objectives.both,
        "named": named,
        "rank": rank_text,
        "share": lambda row: f"{100 * row.cost_share:.1f} %",
    }
    page = environment.get_template("sweep.html").render(
        found=found,
        objectives=objectives.measured(),
        shorts=objectives.shorts(),
        sweeps=sweeps,
        comparisons=comparisons,
        cheapest=_cheapest(comparisons),
        in_time=any(row.timed for row in found.rows),
        budgets=at_budgets(found.rows, found.config.search.baselines, found.share),
        baselines=baselines_of(found.rows),
        best=origins(found.rows).best,
        comparability=comparability(found.config, found.stage),
        figures=figures,
        facts=_facts(found),
        failures=[row for row in found.rows if row.status == "failed"],
        agreement={"first images and search stage": first_agreement(found.rows)}
        | {"search stage and full set": stage_agreement(found.rows)},
        comparable=[difference(found, other) for other in sweeps],
        alike=[{}] + [agreement(found.rows, other.rows) for other in sweeps[1:]],
        data=Markup(json.dumps(data).replace("<", "\\u003c")),  # noqa: S704  JSON, and no tag or comment can begin in it
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        written=moment(datetime.now(UTC)),
    )
    with written(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _plain(figure: go.Figure) -> Any:
    """A figure as plotly.js reads it."""
    return json.loads(figure.to_json())


def _cheapest(comparisons: Sequence[Comparison]) -> list[tuple[int, Comparison | None]]:
    """For each loss in points the cheapest member that loses no more of any mIoU; nothing without dense."""
    names = [one.short for one in objectives.mious()]
    known = [(item, min(map(item.dense.__getitem__, names))) for item in comparisons if item.dense is not None]
    found = [(loss, next((item for item, gain in known if gain >= -loss / 100), None)) for loss in _LOSSES]
    return found if known else []


def _rank(row: Row) -> str:
    spread = row.effective_rank_std
    return f"{row.effective_rank:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


# name, the column without which it is unknown, what it says of a row
_FACTS: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
    ("Parameters", "params", lambda row: f"{present(row.params) / 1e6:.3g} M"),
    ("Tokens left at the end", "tokens", lambda row: f"{row.tokens[-1]}"),
    ("Effective rank, of its most, ± standard deviation over images", "effective_rank", _rank),
    ("Latency while other trials ran", "latency_ms", lambda row: f"{row.latency_ms:.2f} ms at batch 1"),
    (
        "Throughput while other trials ran",
        "throughput",
        lambda row: f"{row.throughput:.0f} images/s at batch {row.batch}",
    ),
)


def _recipe(item: Comparison, found: SweepView) -> dict[str, object]:
    """What the page shows of a recipe that is chosen, as far as its row and the dense model's say."""
    row, dense = item.row, found.dense
    facts, figures = {}, {}
    if row.tokens:
        figures["depth"] = depth_figure(row, dense)
    if dense is not None and row.class_iou and dense.class_iou:
        changes = class_changes(row, dense)
        broke = [f"{name} {change:+.1f}" for name, change in changes[:_BROKEN] if change <= -_HARM]
        facts["What broke"] = ", ".join(broke) or f"no class lost {_HARM:g} point"
        figures["classes"] = class_figure(row, dense)
    if dense is not None and row.corrupted_by_variant and dense.corrupted_by_variant:
        figures["corruptions"] = corruption_figure(row, dense)
    if row.timed:
        facts["Predicted time"] = f"{row.predicted_ms:.3g} ms per batch, {row.predicted_share:.1%} of dense"
    facts["GFLOPs"] = f"{row.gflops:.4g}, {row.gflops_share:.1%} of dense"
    for one in objectives.measured():
        facts[one.axis] = one.text(one.value(row)) + ("" if dense is None else f" (dense {one.text(one.value(dense))})")
    for name, column, told in _FACTS:
        if getattr(row, column) not in (None, ()):
            facts[name] = told(row)
            if dense is not None and getattr(dense, column) not in (None, ()):
                facts[name] += f" (dense {told(dense)})"
    if item.rcd is not None:
        facts["Relative corruption degradation"] = f"{item.rcd:.3f} (below 1: degrades less than dense)"
    facts["Command"] = f"raycomp export {row.recipe_id[:6]} --sweep {found.name} --out models"
    return {
        "facts": list(facts.items()),
        "figures": {name: _plain(figure) for name, figure in figures.items()},
    }


def _facts(found: SweepView) -> list[tuple[str, str]]:
    """The sweep in a few lines."""
    config = found.config
    spent = {
        "building models": sum(row.seconds_build or 0.0 for row in found.rows),
        "recovering accuracy": sum(row.seconds_recover or 0.0 for row in found.rows),
        "measuring": sum(row.seconds_measure or 0.0 for row in found.rows),
    }
    whole = sum(row.seconds or 0.0 for row in found.rows)
    unit = "of the dense milliseconds" if any(row.timed for row in found.rows) else "of the dense GFLOPs"
    facts = [
        ("Model", f"{config.model.elastic or config.model.checkpoint}"),
        ("Data", f"{config.data.dataset} {config.data.eval_split}"),
        ("Limit", f"{found.share:.0%} {unit}"),
        *_origin(found),
        *([("Hypervolume of the search", f"{found.hypervolumes[-1]:.4f}")] if found.hypervolumes else []),
        (
            "Time of all workers",
            f"{duration(whole)}: " + ", ".join(f"{duration(s)} {name}" for name, s in spent.items() if s),
        ),
    ]
    ends = [end for row in found.rows if (end := row.ended) is not None]
    if ends:
        began = min(row.started for row in found.rows if row.started is not None)
        span = duration((max(ends) - began).total_seconds())
        facts.append(("Begun, and first to last", f"{moment(began)}, {span}"))
    return facts


def _origin(found: SweepView) -> list[tuple[str, str]]:
    """Where the recipes are from: a search, or that of another sweep."""
    search, statuses = found.config.search, Counter(row.status for row in found.trials)
    elsewhere = {row.recipe_id for row in found.rows if row.origin != "reference"}
    if elsewhere and not found.trials:
        return [("Measured elsewhere", f"{len(elsewhere)} recipes of another sweep's search")]
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "none"
    trials = [("Trials", f"{counts} of {search.trials}"), ("Of them", str(origins(found.rows)))]
    return [*trials, ("Sampler, seed", f"{search.sampler}, {search.seed}")]
