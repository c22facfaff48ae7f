# SPDX-License-Identifier: Apache-2.0
"""Interactive figures of one recipe, by block, by class, and by corruption and severity; and of importances."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raycomp.data.corruptions import SEVERITIES, TYPES
from raycomp.report.page.charts import FRONT, GREY, styled
from raycomp.results.query import class_names
from raycomp.results.row import Row

_WORSE = "#d1495b"
_PARTS = (("tokens", "tokens"), ("heads", "heads"), ("qk", "QK width"), ("v", "V width"), ("mlp", "MLP width"))


def depth_figure(row: Row, dense: Row | None) -> go.Figure:
    """Plot tokens, widths and GFLOPs of each block, in front of the dense model's if known."""
    parts = [(key, title) for key, title in _PARTS if key == "tokens" or getattr(row, key) != getattr(dense, key, None)]
    if row.gflops_blocks:
        parts.append(("gflops_blocks", "GFLOPs"))
    figure = styled(make_subplots(1, len(parts), subplot_titles=[title for _, title in parts], horizontal_spacing=0.04))
    for column, (key, title) in enumerate(parts, 1):
        blocks = list(range(len(getattr(row, key))))
        for one, color, name in ((dense, "#e4e4e4", "dense"), (row, FRONT, "recipe")):
            values = getattr(one, key, ())
            if not values:
                continue
            text = f"block %{{x}}: %{{y:.4g}} {title}<extra>{name}</extra>"
            figure.add_bar(
                x=blocks, y=values, marker={"color": color}, name=name, legendgroup=name, hovertemplate=text,
                showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(dtick=max(1, len(row.tokens) // 6), tickangle=0, title_text="block")
    return figure.update_layout(barmode="overlay", bargap=0.15, height=260, legend={"y": -0.35})


def class_figure(row: Row, dense: Row) -> go.Figure:
    """Plot the change of each class's clean IoU against dense, in points, the worst on top."""
    changes = class_changes(row, dense)
    names, values = [name for name, _ in changes], [change for _, change in changes]
    after, before = (dict(zip(class_names([row, dense]), r.class_iou, strict=True)) for r in (row, dense))
    hover = [f"{name}: {100 * before[name]:.1f} → {100 * after[name]:.1f} %" for name in names]
    figure = styled(go.Figure())
    figure.add_bar(
        x=values, y=names, orientation="h", marker={"color": [_WORSE if v < 0 else FRONT for v in values]}, text=hover,
        textposition="none", hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="change of clean IoU, points")
    return figure.update_layout(height=max(260, 22 * len(names) + 90), margin={"l": 110})


def corruption_figure(row: Row, dense: Row) -> go.Figure:
    """Plot the change of mIoU against dense by corruption and severity, in points."""
    after, before = (100 * np.array(r.corrupted_by_variant, float).reshape(-1, len(SEVERITIES)) for r in (row, dense))
    change = after - before
    bound = float(max(1.0, np.nanmax(np.abs(change)))) if np.isfinite(change).any() else 1.0
    hover = [
        [f"{kind}, severity {s}: {b:.1f} → {a:.1f} %" for s, a, b in zip(SEVERITIES, after[i], before[i], strict=True)]
        for i, kind in enumerate(TYPES)
    ]
    figure = styled(go.Figure())
    figure.add_heatmap(
        z=change, x=[str(s) for s in SEVERITIES], y=[kind.replace("_", " ") for kind in TYPES], text=hover,
        texttemplate="%{z:.1f}", hovertemplate="%{text}<extra></extra>", zmin=-bound, zmax=bound,
        colorscale=[[0, _WORSE], [0.5, "white"], [1, FRONT]], colorbar={"title": "points"},
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="severity")
    return figure.update_layout(height=520, margin={"l": 130})


def class_changes(row: Row, dense: Row) -> list[tuple[str, float]]:
    """Return the change of clean IoU of each class in points, the largest loss first, without classes that are NaN."""
    ious = zip(class_names([row, dense]), row.class_iou, dense.class_iou, strict=True)
    changes = [(name, 100 * (after - before)) for name, after, before in ious if after == after and before == before]
    return sorted(changes, key=lambda change: change[1])


def _place(dimension: str) -> tuple[str, int | None]:
    """Return the kind and the block of a dimension: `mlp_3`, `merge_windows_0`, or `embed` without a block."""
    kind, _, block = dimension.rpartition("_")
    return (kind, int(block)) if kind else (dimension, None)


def importance_figure(importance: dict[str, dict[str, float]]) -> go.Figure:
    """Plot the share of the variance of accuracy by kind of dimension and block."""
    places = {name: _place(name) for by_name in importance.values() for name in by_name}
    kinds = list(dict.fromkeys(kind for kind, _ in places.values()))
    depth = 1 + max(block or 0 for _, block in places.values())
    figure = styled(make_subplots(1, len(importance), subplot_titles=list(importance), horizontal_spacing=0.08))
    maximum = max(max(by_name.values()) for by_name in importance.values())
    for column, by_name in enumerate(importance.values(), 1):
        z = np.full((len(kinds), depth), np.nan)
        for name, value in by_name.items():
            kind, block = places[name]
            if block is None:
                z[kinds.index(kind)] = value  # one value for all blocks
            else:
                z[kinds.index(kind), block] = value
        figure.add_heatmap(
            z=z, x=[str(block) for block in range(depth)], y=kinds, zmin=0, zmax=maximum, showscale=column == 1,
            colorscale=[[0, "white"], [1, FRONT]], hovertemplate="%{y}, block %{x}: %{z:.0%}<extra></extra>",
            colorbar={"tickformat": ".0%"}, row=1, col=column,
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="block")
    return figure.update_layout(height=120 + 34 * len(kinds), plot_bgcolor=GREY + "20", margin={"l": 80})
