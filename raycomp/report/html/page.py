"""Write the page of a sweep, or of several compared: one file, with its data and plotly.js inside."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raycomp.files import written
from raycomp.report.compare import Comparison, at_budgets, first_agreement, stage_agreement
from raycomp.report.found import Found, difference, named
from raycomp.report.html.figures import beside_paper_figure, front_figure, fronts_figure, history_figure
from raycomp.report.html.importance import importance
from raycomp.report.html.recipe_figures import (
    class_changes,
    class_figure,
    corruption_figure,
    depth_figure,
    importance_figure,
)
from raycomp.results.row import ended, timed
from raycomp.search.known import BASELINES
from raycomp.storage import AnyPath

_BROKEN = 3  # classes that are named as what broke, at most
_HARM = 1.0  # points of IoU that a class lost at least to be named


def write_page(sweeps: Sequence[Found], path: AnyPath) -> None:
    """Write the page: all about the first sweep; of the others, what compares them with it."""
    found = sweeps[0]
    figures = {"front": front_figure(found)}
    if searched := [one for one in sweeps if one.trials]:
        figures["history"] = history_figure(searched)
    if found.dense is not None:
        figures["paper"] = beside_paper_figure(found)
    if shares := importance(found):
        figures["importance"] = importance_figure(shares)
    if len(sweeps) > 1:
        figures["fronts"] = fronts_figure(sweeps)
    comparisons = found.comparisons
    data = {
        "figures": {name: _plain(figure) for name, figure in figures.items()},
        "recipes": {item.row["recipe_id"]: _recipe(item, found) for item in comparisons},
    }
    environment = Environment(loader=PackageLoader("raycomp.report.html"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "percent": lambda v: f"{100 * v:.2f}",
        "points": lambda v: f"{100 * v:+.1f}",
        "named": named,
    }
    page = environment.get_template("sweep.html").render(
        found=found,
        sweeps=sweeps,
        comparisons=comparisons,
        in_time=any(map(timed, found.rows)),
        budgets=at_budgets(found.rows, found.config.search.known, found.share),
        baselines=BASELINES,
        figures=figures,
        facts=_facts(found),
        failures=[row for row in found.rows if row["status"] == "failed"],
        agreement={"first images and search stage": first_agreement(found.rows)}
        | {"search stage and full set": stage_agreement(found.rows)},
        comparable=[difference(found, other) for other in sweeps],
        data=Markup(json.dumps(data).replace("</", "<\\/")),  # noqa: S704  JSON, and no tag can end in it
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        written=datetime.now(UTC),
    )
    with written(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _plain(figure: go.Figure) -> Any:
    """A figure as plotly.js reads it."""
    return json.loads(figure.to_json())


def _recipe(item: Comparison, found: Found) -> dict[str, Any]:
    """What the page shows of a recipe that is chosen."""
    row, dense = item.row, found.dense
    if dense is None:
        return {"facts": [], "figures": {}}
    changes = class_changes(row, dense)
    broke = [f"{name} {change:+.1f}" for name, change in changes[:_BROKEN] if change <= -_HARM]
    times = [f"{row['latency_ms']:.2f} ms at batch 1 (dense {dense['latency_ms']:.2f})"]
    times.append(f"{row['throughput']:.0f} images/s at batch {row['batch']} (dense {dense['throughput']:.0f})")
    facts = {
        "What broke": ", ".join(broke) or f"no class lost {_HARM:g} point",
        "GFLOPs": f"{row['gflops']:.4g}, {row['gflops_share']:.1%} of dense",
        "Parameters": f"{row['params'] / 1e6:.3g} M, {row['params'] / dense['params']:.1%} of dense",
        "Clean / corrupted mIoU": f"{100 * row['clean_miou']:.2f} / {100 * row['corrupted_miou']:.2f} % "
        f"(dense {100 * dense['clean_miou']:.2f} / {100 * dense['corrupted_miou']:.2f})",
        "Effective rank, of its most": f"{row['effective_rank']:.3f} ± {row['effective_rank_std']:.3f} "
        f"(dense {dense['effective_rank']:.3f})",
        "Speed while other trials ran": "; ".join(times),
        "Command": f"raycomp export {row['recipe_id'][:6]} --sweep {found.name} --out models",
    }
    if item.rcd is not None:
        facts["Relative corruption degradation"] = f"{item.rcd:.3f} (below 1: degrades less than dense)"
    figures = {"depth": depth_figure(row, dense), "classes": class_figure(row, dense)}
    if row.get("corrupted_by_variant"):
        figures["corruptions"] = corruption_figure(row, dense)
    return {
        "facts": list(facts.items()),
        "figures": {name: _plain(figure) for name, figure in figures.items()},
    }


def _facts(found: Found) -> list[tuple[str, str]]:
    """The sweep in a few lines."""
    config, trials = found.config, found.trials
    statuses = Counter(row["status"] for row in trials)
    spent = {
        "building models": sum(row.get("seconds_build") or 0.0 for row in found.rows),
        "recovering accuracy": sum(row.get("seconds_recover") or 0.0 for row in found.rows),
        "measuring": sum(row.get("seconds_measure") or 0.0 for row in found.rows),
    }
    whole = sum(row.get("seconds") or 0.0 for row in found.rows)
    unit = "of the dense milliseconds" if any(map(timed, found.rows)) else "of the dense GFLOPs"
    facts = [
        ("Model", f"{config.model.elastic or config.model.checkpoint}"),
        ("Data", f"{config.data.dataset} {config.data.eval_split}"),
        ("Limit", f"{found.share:.0%} {unit}"),
        (
            "Trials",
            ", ".join(f"{count} {status}" for status, count in statuses.items()) + f" of {config.search.trials}",
        ),
        ("Sampler, seed", f"{config.search.sampler}, {config.search.seed}"),
        *([("Hypervolume of the search", f"{found.hypervolume():.4f}")] if found.trials else []),
        (
            "Time of all workers",
            f"{_time(whole)}: " + ", ".join(f"{_time(s)} {name}" for name, s in spent.items() if s),
        ),
    ]
    ends = [end for row in found.rows if (end := ended(row)) is not None]
    if ends:
        began = min(row["started"] for row in found.rows if row.get("started") is not None)
        span = _time((max(ends) - began).total_seconds())
        facts.append(("Begun, and first to last", f"{began:%Y-%m-%d %H:%M} UTC, {span}"))
    return facts


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
