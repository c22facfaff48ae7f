# SPDX-License-Identifier: Apache-2.0
"""The page of one or several sweeps: a single HTML file that contains its data and plotly.js."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from raycomp.report.sweep_view import SweepView, difference
from raycomp.results.query import (
    agreement,
    at_budgets,
    first_agreement,
    origins,
    stage_agreement,
    stage_changes,
    uniform_baselines_of,
)
from raycomp.results.row import Row, present
from raycomp.storage import AnyPath

_WORST = 3  # maximum number of classes listed as worst
_MIN_LOSS = 1.0  # points of IoU that a class must lose to be listed
_TOLERANCES = (1, 2, 5)  # points of mIoU lost against dense for which the cheapest recipe is shown


def write_sweep_page(sweeps: Sequence[SweepView], path: AnyPath) -> None:
    """Write the page of the first sweep, and compare the other sweeps with it."""
    page = sweep_page(sweeps)
    with written(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def sweep_page(sweeps: Sequence[SweepView], live: str = "") -> str:
    """Return the page of the first sweep, compared with the others.

    Args:
        live: For a page that `raycomp watch` serves, the version of its rows; the page then follows the sweep.
    """
    sweep = sweeps[0]
    figures = {"front": front_figure(sweep)}
    if any(one.hypervolumes for one in sweeps):
        figures["history"] = history_figure(sweeps)
    if sweep.dense is not None:
        figures["paper"] = beside_paper_figure(sweep)
    if not live and (shares := importance(sweep)):  # seconds, too long for a page that is drawn again and again
        figures["importance"] = importance_figure(shares)
    if len(sweeps) > 1:
        figures["fronts"] = fronts_figure(sweeps)
    comparisons = sweep.comparisons
    data = {"figures": _plain(figures), "recipes": {item.row.recipe_id: _recipe(item, sweep) for item in comparisons}}
    environment = Environment(loader=PackageLoader("raycomp.report.page"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "both": objectives.both,
        "rank": rank_text,
        "share": lambda row: f"{100 * row.cost_share:.1f} %",
    }
    return environment.get_template("sweep.html").render(
        live=live,
        sweep=sweep,
        objectives=objectives.measured(),
        shorts=objectives.shorts(),
        sweeps=sweeps,
        comparisons=comparisons,
        cheapest=_cheapest(comparisons),
        in_time=sweep.timed,
        budgets=at_budgets(sweep.rows, sweep.config.search.shares(sweep.share), sweep.share),
        baselines=uniform_baselines_of(sweep.rows),
        best=origins(sweep.rows).best,
        comparability=comparability(sweep.config, sweep.stage),
        figures=figures,
        summary=_summary(sweep),
        failures=[row for row in sweep.rows if row.status == "failed"],
        changes=stage_changes(sweep.rows),
        agreement={"first images and search stage": first_agreement(sweep.rows)}
        | {"search stage and full set": stage_agreement(sweep.rows)},
        differences=[difference(sweep, other) for other in sweeps],
        correlations=[{}] + [agreement(sweep.rows, other.rows) for other in sweeps[1:]],
        data=Markup(json.dumps(data).replace("<", "\\u003c")),  # noqa: S704  JSON in which no tag or comment can begin
        plotly=None if live else Markup(get_plotlyjs()),  # noqa: S704
        written=moment(datetime.now(UTC)),
    )


def _plain(figures: Mapping[str, go.Figure]) -> dict[str, Any]:
    """Return figures as plotly.js reads them."""
    return {name: json.loads(figure.to_json()) for name, figure in figures.items()}


def _cheapest(comparisons: Sequence[Comparison]) -> list[tuple[int, Comparison | None]]:
    """Return, for each tolerance, the cheapest member that loses no more points of any mIoU; empty without dense."""
    names = [one.short for one in objectives.mious()]
    gains = [(item, min(item.dense[name] for name in names)) for item in comparisons if item.dense is not None]
    cheapest = [(loss, next((item for item, gain in gains if gain >= -loss / 100), None)) for loss in _TOLERANCES]
    return cheapest if gains else []


def _rank(row: Row) -> str:
    spread = row.effective_rank_std
    return f"{row.effective_rank:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


# Name, required column, and text of a row.
_PROPERTIES: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
    ("Parameters", "params", lambda r: f"{present(r.params) / 1e6:.3g} M"),
    ("File", "file_mb", lambda r: f"{r.file_mb:.3g} MB"),
    ("Memory of a batch", "memory_mb", lambda r: f"{r.memory_mb:.3g} MB"),
    ("Tokens after the last block", "tokens", lambda r: f"{r.tokens[-1]}"),
    ("Effective rank / maximum, ± standard deviation over images", "effective_rank", _rank),
    ("Latency while other trials ran", "latency_ms", lambda r: f"{r.latency_ms:.2f} ms at batch 1"),
    ("Throughput while other trials ran", "throughput", lambda r: f"{r.throughput:.0f} images/s at batch {r.batch}"),
)


def _recipe(item: Comparison, sweep: SweepView) -> dict[str, object]:
    """Return what the page shows of a selected recipe: its properties and figures, compared with dense."""
    row, dense = item.row, sweep.dense
    properties, figures = {}, {}
    if row.tokens:
        figures["depth"] = depth_figure(row, dense)
    if dense is not None and row.class_iou and dense.class_iou:
        changes = class_changes(row, dense)
        worst = [f"{name} {change:+.1f}" for name, change in changes[:_WORST] if change <= -_MIN_LOSS]
        properties["Worst classes"] = ", ".join(worst) or f"no class lost {_MIN_LOSS:g} point"
        figures["classes"] = class_figure(row, dense)
    if dense is not None and row.corrupted_by_variant and dense.corrupted_by_variant:
        figures["corruptions"] = corruption_figure(row, dense)
    if row.timed:
        properties["Predicted time"] = f"{row.predicted_ms:.3g} ms per batch, {row.predicted_share:.1%} of dense"
    properties["GFLOPs"] = f"{row.gflops:.4g}, {row.gflops_share:.1%} of dense"
    for one in objectives.measured():
        reference = "" if dense is None else f" (dense {one.text(one.value(dense))})"
        properties[one.axis] = one.text(one.value(row)) + reference
    for name, column, text in _PROPERTIES:
        if getattr(row, column) not in (None, ()):
            properties[name] = text(row)
            if dense is not None and getattr(dense, column) not in (None, ()):
                properties[name] += f" (dense {text(dense)})"
    if item.rcd is not None:
        properties["Relative corruption degradation"] = f"{item.rcd:.3f} (below 1: degrades less than dense)"
    properties["Command"] = f"raycomp export {row.recipe_id[:6]} --sweep {sweep.name} --out models"
    return {"properties": list(properties.items()), "figures": _plain(figures)}


def _summary(sweep: SweepView) -> list[tuple[str, str]]:
    """Return a summary of the sweep as names and texts."""
    config, rows = sweep.config, sweep.rows
    columns = {"building models": "build", "recovering accuracy": "recover", "measuring": "measure"}
    parts = {name: sum(getattr(row, f"seconds_{part}") or 0.0 for row in rows) for name, part in columns.items()}
    total = duration(sum(row.seconds or 0.0 for row in rows))
    unit = "milliseconds" if sweep.timed else "GFLOPs"
    summary = [
        ("Model", f"{config.model.elastic or config.model.checkpoint}"),
        ("Data", f"{config.data.dataset} {config.data.eval_split}"),
        ("Budget", f"{sweep.share:.0%} of the dense {unit}"),
        *_origin(sweep),
        *([("Hypervolume of the search", f"{sweep.hypervolumes[-1]:.4f}")] if sweep.hypervolumes else []),
        ("Worker time", f"{total}: " + ", ".join(f"{duration(s)} {name}" for name, s in parts.items() if s)),
    ]
    if ends := [end for row in rows if (end := row.ended) is not None]:
        began = min(row.started for row in rows if row.started is not None)
        span = duration((max(ends) - began).total_seconds())
        summary.append(("Start, and time to the last row", f"{moment(began)}, {span}"))
    return summary


def _origin(sweep: SweepView) -> list[tuple[str, str]]:
    """Return where the recipes come from: this sweep's search, or that of another sweep."""
    search, statuses = sweep.config.search, Counter(row.status for row in sweep.trials)
    recipes = {row.recipe_id for row in sweep.rows if row.origin != "reference"}
    if recipes and not sweep.spent:
        return [("Re-ranked", f"{len(recipes)} recipes from another sweep's search")]
    probes = sum(row.stage == "probe" for row in sweep.rows)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    parts = [f"{probes} probes on few images"] if probes else []
    if counts:
        parts.append(f"{counts} on all search images")
    trials = [("Trials", f"{sweep.spent} of {search.trials}" + (f": {'; '.join(parts)}" if parts else ""))]
    trials.append(("Origins", str(origins(sweep.rows))))
    return [*trials, ("Sampler, seed", f"{search.sampler}, {search.seed}")]
