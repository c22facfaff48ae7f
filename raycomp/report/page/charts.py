"""Interactive figures of a whole sweep. Points carry their recipe's id, so that the page can link them."""

from collections.abc import Callable, Sequence
from itertools import cycle, pairwise

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raycomp import objectives
from raycomp.objectives import COST
from raycomp.report.plot import axis_bottom
from raycomp.report.published import DENSE, PUBLISHED, Published
from raycomp.report.sweep_view import SweepView, named
from raycomp.results.query import baseline_curve, baselines_of, completed, refined_rows
from raycomp.results.row import Row, present

FRONT, GREY, INK = "#1b6ca8", "#b8b8b8", "#222222"
COLORS = ("#d1495b", "#8d6a9f", "#e09f3e", "#3a7d44", "#5c8a8a", "#a0522d")
_SYMBOLS = ("triangle-down", "square", "diamond", "cross", "x", "star-triangle-up")


def front_figure(found: SweepView) -> go.Figure:
    """The measured objectives against the cost, side by side; method families, baselines, published where they fit."""
    figure = _panels([objective.axis for objective in objectives.measured()])
    unit = "predicted ms per batch" if any(row.timed for row in found.rows) else "GFLOPs per image"
    members = {row.recipe_id for row in found.front}
    rest = [row for row in completed(found.trials, "search") if row.recipe_id not in members]
    for family in sorted({row.family for row in rest} - {"dense"}, key=lambda name: (name != "prune", len(name))):
        own = [row for row in rest if row.family == family]
        symbol = "triangle-right" if family == "prune" else "circle" if "+" in family else "triangle-up"
        _points(figure, own, f"search stage: {family}", {"color": GREY, "size": 6, "symbol": symbol})
    _points(figure, found.front, "Pareto front", {"color": FRONT, "size": 11, "line": {"color": "white", "width": 1}})
    kinds = baselines_of(found.rows)
    for kind, color, symbol in zip(kinds, COLORS, _SYMBOLS, strict=False):
        curve = baseline_curve(found.rows, found.stage, kind)
        _points(figure, curve, kind, {"color": color, "size": 6, "symbol": symbol}, mode="lines+markers")
    _points(figure, refined_rows(found.rows), "refined", {"color": "#3a7d44", "size": 9, "symbol": "star"})
    if found.dense is not None:
        _points(figure, [found.dense], "dense", {"color": INK, "size": 14, "symbol": "star"})
    _anchors(figure, found)
    figure.update_xaxes(title_text=unit)
    for column, objective in enumerate(objectives.measured(), 1):
        best = [objective.scaled(row) for row in (*found.front, *([] if found.dense is None else [found.dense]))]
        if best and objective.maximised:
            bottom = axis_bottom(best)
            top = max(max(trace.y) for trace in figure.select_traces(row=1, col=column))
            figure.update_yaxes(range=[bottom, top + 0.06 * (top - bottom)], col=column)
    return figure.update_layout(dragmode="select", height=470)


def beside_paper_figure(found: SweepView) -> go.Figure:
    """What is kept of the dense accuracy against what is left of the dense cost, beside the paper's methods."""
    told = [objective for objective in objectives.measured() if objective.short in Published._fields]
    figure = _panels([f"{objective.title} kept (%)" for objective in told])
    for dataset, methods in PUBLISHED.items():
        whole = methods[DENSE][0]
        for method, color in zip([name for name in methods if name != DENSE], COLORS, strict=False):
            points = methods[method]
            x = [100 * p.gflops / whole.gflops for p in points]
            kept = [[100 * getattr(p, one.short) / getattr(whole, one.short) for p in points] for one in told]
            name = f"{method}, {dataset}"
            style = {"color": color, "symbol": "circle-open", "size": 7}
            dash = "dot" if dataset == "cityscapes" else "dash"
            for column, y in enumerate(kept, 1):
                line = {"color": color, "dash": dash, "width": 1}
                _add(figure, column, x=x, y=y, name=name, mode="lines+markers", marker=style, line=line)
    if found.dense is not None:
        whole_row = found.dense
        for column, objective in enumerate(told, 1):
            if not (most := objective.value(whole_row)):  # of nothing, no share is kept
                continue
            y = [100 * objective.value(row) / most for row in found.front]
            x = [100 * row.cost_share for row in found.front]
            hover = [describe(row) for row in found.front]
            ids = [row.recipe_id for row in found.front]
            style = {"color": FRONT, "size": 10}
            _add(figure, column, x=x, y=y, name="this sweep's front", mode="markers", marker=style,
                 text=hover, customdata=ids, hovertemplate="%{text}<extra></extra>")  # fmt: skip
    figure.update_xaxes(
        title_text="% of the dense GFLOPs" if not any(row.timed for row in found.rows) else "% of the dense cost"
    )
    return figure.update_layout(height=430)


def history_figure(sweeps: Sequence[SweepView]) -> go.Figure:
    """Hypervolume of the search stage after each trial, of the sweeps that know theirs."""
    figure = go.Figure()
    for found, color in zip(sweeps, cycle((FRONT, *COLORS)), strict=False):
        volumes = found.hypervolumes
        if not volumes:
            continue
        known = sum(row.origin == "baseline" for row in found.trials)
        hover = [f"trial {row.number}: {named(row)} {row.recipe_id}, {row.status}" for row in found.trials]
        x = [row.number for row in found.trials]
        figure.add_scatter(
            x=x, y=volumes, mode="lines", line={"color": color, "shape": "hv"}, name=found.name, text=hover,
            hovertemplate="%{text}<br>hypervolume %{y:.4f}<extra></extra>",
        )  # fmt: skip
        better = [i for i, (a, b) in enumerate(pairwise([0.0, *volumes])) if b > a]
        figure.add_scatter(
            x=[x[i] for i in better], y=[volumes[i] for i in better], mode="markers",
            marker={"color": color, "size": 6}, name=f"{found.name}: joined the front",
            customdata=[found.trials[i].recipe_id for i in better],
            text=[hover[i] for i in better], hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        if len(sweeps) == 1 and 0 < known < len(x):
            figure.add_vline(
                x=known + 0.5, line={"dash": "dot", "color": GREY}, annotation_text="proposed from here on"
            )
    figure.update_layout(xaxis_title="trials", yaxis_title="hypervolume")
    return styled(figure).update_layout(height=330, showlegend=len(sweeps) > 1)


def fronts_figure(sweeps: Sequence[SweepView]) -> go.Figure:
    """Fronts of several sweeps over each other: by their cost where it is of one model and unit, else by its share."""
    figure = _panels([objective.axis for objective in objectives.measured()])
    members = [row for found in sweeps for row in found.front]
    wholes = [row.cost / row.cost_share for row in members]
    relative = len({row.timed for row in members}) > 1 or max(wholes, default=1.0) > 1.01 * min(wholes, default=1.0)
    x: Callable[[Row], float] = (lambda row: 100 * row.cost_share) if relative else COST.value
    for found, color, symbol in zip(sweeps, cycle((FRONT, *COLORS)), cycle(("circle", *_SYMBOLS)), strict=False):
        style = {"color": color, "size": 9, "symbol": symbol}
        _points(figure, found.front, found.name, style, mode="lines+markers", x=x)
    unit = "predicted ms per batch" if any(row.timed for row in members) else "GFLOPs per image"
    figure.update_xaxes(title_text="% of its own dense cost" if relative else unit)
    return figure.update_layout(height=430)


def describe(row: Row) -> str:
    """A recipe in a few lines, for a pointer that rests on it."""
    lines = [
        f"<b>{named(row)}</b> {row.recipe_id}",
        f"{row.gflops:.4g} GFLOPs, {row.gflops_share:.1%} of dense",
    ]
    if row.timed:
        lines.append(f"{row.predicted_ms:.3g} ms predicted, {row.predicted_share:.1%} of dense")
    figures = (f"{one.short} {one.text(one.value(row))}" for one in objectives.measured())
    lines.append(f"{', '.join(figures)} ({row.stage})")
    lines.append(f"embedding {row.embed}; heads {_run(row.heads)}; MLP {_run(row.mlp)}")
    if any(row.ratios):
        lines.append(f"merged {_run([round(100 * r) for r in row.ratios])} %")
    return "<br>".join(lines)


def styled(figure: go.Figure) -> go.Figure:
    """What all figures share."""
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        legend={"orientation": "h", "y": -0.18},
        hoverlabel={"align": "left"},
    )
    return figure


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
    costs, ids, hover = [x(row) for row in rows], [row.recipe_id for row in rows], [describe(row) for row in rows]
    for column, objective in enumerate(objectives.measured(), 1):
        y = [objective.scaled(row) for row in rows]
        _add(figure, column, x=costs, y=y, name=name, mode=mode, marker=marker, line={"width": 1.5}, customdata=ids,
             text=hover, hovertemplate="%{text}<extra></extra>")  # fmt: skip


def _add(figure: go.Figure, column: int, **trace: object) -> None:
    """A trace of one panel; the panels' traces of a name go by one entry of the legend."""
    name = trace["name"]
    figure.add_scatter(row=1, col=column, legendgroup=name, showlegend=column == 1, **trace)


def _anchors(figure: go.Figure, found: SweepView) -> None:
    """The paper's own figures, where the sweep is of its data set and model."""
    methods, whole = PUBLISHED.get(found.config.data.dataset, {}), found.dense
    if whole is None or whole.timed or not methods or abs(present(whole.gflops) / methods[DENSE][0].gflops - 1) > 0.01:
        return
    for method, color in zip(methods, (INK, *COLORS), strict=False):
        points = methods[method]
        for column, objective in enumerate(objectives.measured(), 1):
            if objective.short not in Published._fields:
                continue
            x, y = [p.gflops for p in points], [getattr(p, objective.short) for p in points]
            style = {"color": color, "size": 9, "symbol": "circle-open"}
            _add(figure, column, x=x, y=y, name=f"paper: {method}", mode="markers", marker=style)


def _run(values: Sequence[int]) -> str:
    """Values along the depth, shortly where they are all the same."""
    return str(values[0]) if len(set(values)) == 1 else " ".join(map(str, values))
