# SPDX-License-Identifier: Apache-2.0
"""Interactive figures of a sweep. Each point carries its recipe id, so that the page can link figures and tables."""

from collections.abc import Callable, Sequence
from itertools import cycle, pairwise

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raycomp import objectives
from raycomp.objectives import COST
from raycomp.report.plot import INT8, axis_bottom
from raycomp.report.published import DENSE, PUBLISHED, Published
from raycomp.report.sweep_view import SweepView
from raycomp.results.query import baseline_curve, completed, refined_rows, uniform_baselines_of
from raycomp.results.row import Row, present

FRONT, GREY, INK = "#1b6ca8", "#b8b8b8", "#222222"
COLORS = ("#d1495b", "#8d6a9f", "#e09f3e", "#3a7d44", "#5c8a8a", "#a0522d")
_SYMBOLS = ("triangle-down", "square", "diamond", "cross", "x", "star-triangle-up")


def front_figure(sweep: SweepView) -> go.Figure:
    """Plot the measured objectives against the cost, side by side, with baselines and comparable published results."""
    figure = _panels([objective.axis for objective in objectives.measured()])
    unit = "predicted ms per batch" if sweep.timed else "GFLOPs per image"
    members = {row.recipe_id for row in sweep.front}
    rest = [row for row in completed(sweep.trials, "search") if row.recipe_id not in members]
    for family in sorted({row.family for row in rest} - {"dense"}, key=lambda name: (name != "prune", len(name))):
        rows = [row for row in rest if row.family == family]
        _points(figure, rows, f"search stage: {family}", {"color": GREY, "size": 6, "symbol": _symbol(family)})
    for name, precision, color, symbol in (
        ("Pareto front", "fp32", FRONT, "circle"),
        ("Pareto front, INT8", "int8", INT8, "diamond"),
    ):
        rows = [row for row in sweep.front if row.precision == precision]
        style = {"color": color, "size": 11, "symbol": symbol, "line": {"color": "white", "width": 1}}
        _points(figure, rows, name, style)
    kinds = uniform_baselines_of(sweep.rows)
    for kind, color, symbol in zip(kinds, COLORS, _SYMBOLS, strict=False):
        curve = baseline_curve(sweep.rows, sweep.stage, kind)
        _points(figure, curve, kind, {"color": color, "size": 6, "symbol": symbol}, mode="lines+markers")
    _points(figure, refined_rows(sweep.rows), "refined", {"color": "#3a7d44", "size": 9, "symbol": "star"})
    if sweep.dense is not None:
        _points(figure, [sweep.dense], "dense", {"color": INK, "size": 14, "symbol": "star"})
    _anchors(figure, sweep)
    figure.update_xaxes(title_text=unit)
    for column, objective in enumerate(objectives.measured(), 1):
        best = [objective.scaled(row) for row in (*sweep.front, *([] if sweep.dense is None else [sweep.dense]))]
        if best and objective.maximised:
            bottom = axis_bottom(best)
            top = max(max(trace.y) for trace in figure.select_traces(row=1, col=column))
            figure.update_yaxes(range=[bottom, top + 0.06 * (top - bottom)], col=column)
    return figure.update_layout(dragmode="select", height=470)


def beside_paper_figure(sweep: SweepView) -> go.Figure:
    """Plot the kept share of dense accuracy against the share of the dense cost, beside the paper's methods."""
    published = [objective for objective in objectives.measured() if objective.short in Published._fields]
    figure = _panels([f"{objective.title} kept (%)" for objective in published])
    for dataset, methods in PUBLISHED.items():
        dense = methods[DENSE][0]
        for method, color in zip([name for name in methods if name != DENSE], COLORS, strict=False):
            points = methods[method]
            marker = {"color": color, "symbol": "circle-open", "size": 7}
            line = {"color": color, "dash": "dot" if dataset == "cityscapes" else "dash", "width": 1}
            for column, one in enumerate(published, 1):
                x = [100 * p.gflops / dense.gflops for p in points]
                y = [100 * getattr(p, one.short) / getattr(dense, one.short) for p in points]
                name = f"{method}, {dataset}"
                _add(figure, column, x=x, y=y, name=name, mode="lines+markers", marker=marker, line=line)
    for column, objective in enumerate(published, 1):
        if sweep.dense is None or not (reference := objective.value(sweep.dense)):  # a share of 0 is undefined
            continue
        x = [100 * row.cost_share for row in sweep.front]
        y = [100 * objective.value(row) / reference for row in sweep.front]
        marker = {"color": FRONT, "size": 10}
        _add(figure, column, x=x, y=y, name="this sweep's front", mode="markers", marker=marker, **_links(sweep.front))
    figure.update_xaxes(title_text=f"% of the dense {'cost' if sweep.timed else 'GFLOPs'}")
    return figure.update_layout(height=430)


def history_figure(sweeps: Sequence[SweepView]) -> go.Figure:
    """Plot the hypervolume of the search stage after each trial, for sweeps with a dense row."""
    figure = go.Figure()
    for sweep, color in zip(sweeps, cycle((FRONT, *COLORS)), strict=False):
        volumes = sweep.hypervolumes
        if not volumes:
            continue
        baselines = sum(row.origin == "baseline" for row in sweep.trials)
        hover = [f"trial {row.number}: {row.kind} {row.recipe_id}, {row.status}" for row in sweep.trials]
        x = [row.number for row in sweep.trials]
        figure.add_scatter(
            x=x, y=volumes, mode="lines", line={"color": color, "shape": "hv"}, name=sweep.name, text=hover,
            hovertemplate="%{text}<br>hypervolume %{y:.4f}<extra></extra>",
        )  # fmt: skip
        better = [i for i, (a, b) in enumerate(pairwise([0.0, *volumes])) if b > a]
        figure.add_scatter(
            x=[x[i] for i in better], y=[volumes[i] for i in better], mode="markers",
            marker={"color": color, "size": 6}, name=f"{sweep.name}: joined the front",
            customdata=[sweep.trials[i].recipe_id for i in better],
            text=[hover[i] for i in better], hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        if len(sweeps) == 1 and 0 < baselines < len(x):
            line = {"dash": "dot", "color": GREY}
            figure.add_vline(x=baselines + 0.5, line=line, annotation_text="proposed from here on")
    figure.update_layout(xaxis_title="trials", yaxis_title="hypervolume")
    return styled(figure).update_layout(height=330, showlegend=len(sweeps) > 1)


def fronts_figure(sweeps: Sequence[SweepView]) -> go.Figure:
    """Overlay the fronts of several sweeps, by cost if dense model and unit are the same, else by share of dense."""
    figure = _panels([objective.axis for objective in objectives.measured()])
    members = [row for sweep in sweeps for row in sweep.front]
    dense = [row.cost / row.cost_share for row in members]
    relative = len({row.timed for row in members}) > 1 or max(dense, default=1.0) > 1.01 * min(dense, default=1.0)
    x: Callable[[Row], float] = (lambda row: 100 * row.cost_share) if relative else COST.value
    for sweep, color, symbol in zip(sweeps, cycle((FRONT, *COLORS)), cycle(("circle", *_SYMBOLS)), strict=False):
        style = {"color": color, "size": 9, "symbol": symbol}
        _points(figure, sweep.front, sweep.name, style, mode="lines+markers", x=x)
    unit = "predicted ms per batch" if any(row.timed for row in members) else "GFLOPs per image"
    figure.update_xaxes(title_text="% of each sweep's dense cost" if relative else unit)
    return figure.update_layout(height=430)


def _symbol(family: str) -> str:
    """Return the marker of a family; those in INT8 are open."""
    compressed = family.removesuffix("int8").removesuffix("+")
    symbol = "star" if not compressed else "circle" if "+" in compressed else "triangle-up"
    symbol = "triangle-right" if compressed == "prune" else symbol
    return symbol if compressed == family else f"{symbol}-open"


def describe(row: Row) -> str:
    """Return the hover text of a recipe."""
    lines = [f"<b>{row.kind}</b> {row.recipe_id}", f"{row.gflops:.4g} GFLOPs, {row.gflops_share:.1%} of dense"]
    if row.timed:
        lines.append(f"{row.predicted_ms:.3g} ms predicted, {row.predicted_share:.1%} of dense")
    figures = (f"{one.short} {one.text(one.value(row))}" for one in objectives.measured())
    lines.append(f"{', '.join(figures)} ({row.stage})")
    lines.append(f"embedding {row.embed}; heads {_by_block(row.heads)}; MLP {_by_block(row.mlp)}")
    if any(row.ratios):
        lines.append(f"merged {_by_block([round(100 * r) for r in row.ratios])} %")
    if (merge := row.recipe.merge) is not None and merge.note:
        lines.append(merge.note)
    return "<br>".join(lines)


def styled(figure: go.Figure) -> go.Figure:
    """Apply the common style of all figures."""
    font = {"family": "system-ui, sans-serif", "size": 13, "color": INK}
    margin, legend = {"l": 60, "r": 20, "t": 30, "b": 50}, {"orientation": "h", "y": -0.18}
    return figure.update_layout(
        template="plotly_white", font=font, margin=margin, legend=legend, hoverlabel={"align": "left"}
    )


def _panels(titles: Sequence[str]) -> go.Figure:
    figure = styled(make_subplots(1, len(titles), horizontal_spacing=0.08))
    for column, title in enumerate(titles, 1):
        figure.update_yaxes(title_text=title, row=1, col=column)
    return figure


def _points(
    figure: go.Figure,
    rows: Sequence[Row],
    name: str,
    marker: dict[str, object],
    mode: str = "markers",
    x: Callable[[Row], float] = COST.value,
) -> None:
    if not rows:
        return
    costs, line, links = [x(row) for row in rows], {"width": 1.5}, _links(rows)
    for column, objective in enumerate(objectives.measured(), 1):
        y = [objective.scaled(row) for row in rows]
        _add(figure, column, x=costs, y=y, name=name, mode=mode, marker=marker, line=line, **links)


def _links(rows: Sequence[Row]) -> dict[str, object]:
    """Return the hover texts of recipes, and the ids by which the page links their points with its tables."""
    ids, hover = [row.recipe_id for row in rows], [describe(row) for row in rows]
    return {"customdata": ids, "text": hover, "hovertemplate": "%{text}<extra></extra>"}


def _add(figure: go.Figure, column: int, **trace: object) -> None:
    """Add a trace to a panel; traces with one name in several panels share a legend entry."""
    name = trace["name"]
    figure.add_scatter(row=1, col=column, legendgroup=name, showlegend=column == 1, **trace)


def _anchors(figure: go.Figure, sweep: SweepView) -> None:
    """Add the paper's results if the sweep has the same data set and dense GFLOPs."""
    methods, dense = PUBLISHED.get(sweep.config.data.dataset, {}), sweep.dense
    if dense is None or dense.timed or not methods or abs(present(dense.gflops) / methods[DENSE][0].gflops - 1) > 0.01:
        return
    for method, color in zip(methods, (INK, *COLORS), strict=False):
        points, marker = methods[method], {"color": color, "size": 9, "symbol": "circle-open"}
        for column, objective in enumerate(objectives.measured(), 1):
            if objective.short in Published._fields:
                x, y = [p.gflops for p in points], [getattr(p, objective.short) for p in points]
                _add(figure, column, x=x, y=y, name=f"paper: {method}", mode="markers", marker=marker)


def _by_block(values: Sequence[int]) -> str:
    """Format the values of all blocks; a single one if they are equal."""
    return str(values[0]) if len(set(values)) == 1 else " ".join(map(str, values))
