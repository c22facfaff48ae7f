# SPDX-License-Identifier: Apache-2.0
"""Plot of an autoscaling cluster: nodes and running trials over time."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")  # no display on a cluster

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from raycomp.files import written
from raycomp.storage import AnyPath


def plot_cluster(
    seconds: Sequence[float],
    nodes: Sequence[int],
    running: Sequence[int],
    ends: Sequence[float],
    title: str,
    path: AnyPath,
) -> None:
    """Plot nodes and running trials over time into a PNG.

    Args:
        seconds: time of each sample, in seconds since the start.
        ends: time at which each trial ended, in the same unit.
    """
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    axes.fill_between(seconds, running, step="post", color="#1b6ca8", alpha=0.35, lw=0, label="running trials")
    axes.step(seconds, nodes, where="post", color="#d1495b", lw=1.8, label="nodes")
    if ends:
        axes.plot(ends, [-0.12] * len(ends), "|", color="0.35", ms=7, label="a trial ends", clip_on=False)
    axes.set(xlabel="seconds", ylabel="count", xlim=(0, 1.03 * max(seconds)), ylim=(-0.25, max(nodes) + 0.4))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    with written(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
