# SPDX-License-Identifier: Apache-2.0
"""What figures show, by the labels of their legends."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D


def series(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of every labelled line and scatter plot, and of the lines of error bars, rounded to 1e-6."""
    shown = {}
    artists: list[tuple[str, Line2D | PathCollection]] = [
        *((str(line.get_label()), line) for line in axes.lines),
        *((str(dots.get_label()), dots) for dots in axes.collections if isinstance(dots, PathCollection)),
        *((str(bars.get_label()), bars.lines[0]) for bars in axes.containers if hasattr(bars, "lines")),
    ]
    for label, artist in artists:
        if not label.startswith("_"):
            points = np.asarray(artist.get_xydata() if isinstance(artist, Line2D) else artist.get_offsets(), float)
            shown[label] = [(x, y) for x, y in points.round(6).tolist()]
    return shown
