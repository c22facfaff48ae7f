# SPDX-License-Identifier: Apache-2.0
"""The common style of static figures, and how they are saved."""

import math
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raycomp.files import written
from raycomp.storage import AnyPath

_ENTRIES = 7  # of a legend in one line
_ENTRY, _CHARACTER = 0.75, 0.085  # widths of a legend entry without its name, and of a character, inches


def finish(figure: Figure, panels: Sequence[Axes], title: str, path: AnyPath) -> None:
    """Style the panels, add a title and the first panel's legend, and save the figure."""
    for axes in panels:
        style(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    fitting = int(figure.get_figwidth() / (_ENTRY + _CHARACTER * max(map(len, labels), default=0)))
    lines = math.ceil(len(labels) / max(1, min(_ENTRIES, fitting)))
    columns = math.ceil(len(labels) / max(1, lines))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    save(figure, path)


def style(axes: Axes) -> None:
    """Draw a light grid, and the left and lower axes only."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: AnyPath, dpi: int = 130) -> None:
    """Write a figure as PNG, atomically, and close it."""
    with written(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
    plt.close(figure)
