# SPDX-License-Identifier: Apache-2.0
"""Plot of an autoscaling cluster: nodes and running trials over time."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from raycomp.report.drawing import finish
from raycomp.storage import AnyPath


def plot_cluster(
    seconds: Sequence[float],
    nodes: Sequence[int],
    running: Sequence[int],
    ends: Sequence[float],
    title: str,
    path: AnyPath,
) -> None:
    """Plot nodes and running trials at some seconds after the start, and the ends of trials, into a PNG."""
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    axes.fill_between(seconds, running, step="post", color="#1b6ca8", alpha=0.35, lw=0, label="running trials")
    axes.step(seconds, nodes, where="post", color="#d1495b", lw=1.8, label="nodes")
    if ends:
        axes.plot(ends, [-0.12] * len(ends), "|", color="0.35", ms=7, label="a trial ends", clip_on=False)
    axes.set(xlabel="seconds", ylabel="count", xlim=(0, 1.03 * max(seconds)), ylim=(-0.25, max(nodes) + 0.4))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    finish(figure, [axes], title, path)
