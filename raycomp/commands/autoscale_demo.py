# SPDX-License-Identifier: Apache-2.0
"""`raycomp autoscale-demo`: run a sweep on a local cluster that grows and shrinks. Ray is imported late."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from raycomp.commands.inputs import DEFAULT_SPACE, SpaceFile
from raycomp.report import tables
from raycomp.results.store import Store, sweep_folder


def autoscale_demo_command(
    space: SpaceFile = DEFAULT_SPACE,
    nodes: Annotated[int, typer.Option(min=1, help="Maximum number of nodes.")] = 2,
    trials: Annotated[int, typer.Option(min=1, help="Recipes to measure.")] = 24,
    idle: Annotated[float, typer.Option(min=1, help="Seconds after which an idle node stops.")] = 12.0,
    name: Annotated[str, typer.Option(help="Name of the sweep.")] = "autoscaled",
    results: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
) -> None:
    """Run a sweep, watch the cluster until its last node stops, and draw both over time."""
    folder = sweep_folder(str(results), name)
    options = ["--space", space, "--results", results, "--name", name, "--trials", trials, "--workers", nodes]
    command = [sys.executable, "-m", "raycomp", "search", *map(str, options)]
    os.environ["RAY_AUTH_MODE"] = "disabled"  # a private cluster on loopback; Ray reads this when it is imported
    from raycomp.jobs.autoscaling import watched
    from raycomp.report.autoscale import plot_cluster

    started, moments = watched(command, nodes, idle, tables.say)
    rows = Store(folder).rows()
    ends = [row.ended.timestamp() - started for row in rows if row.ended is not None]
    picture = Path(str(folder)) / "autoscale.png"
    seconds, counts, running = zip(*((m.seconds, m.nodes, m.running) for m in moments), strict=True)
    plot_cluster(seconds, counts, running, [end for end in ends if end > 0], f"{name}: up to {nodes} node(s)", picture)
    busy = sum(running) / max(1, sum(counts))
    nodes_seen = f"at most {max(counts)} node(s), none at the start and {counts[-1]} at the end"
    tables.say(f"{len(rows)} rows; {nodes_seen}; trials used {busy:.0%} of the nodes' time")
    tables.say(f"plot:  {picture}")
