"""Watch a sweep on a cluster that grows and shrinks: Ray's autoscaler on this machine, its nodes one CPU each.

    python jobs/autoscale_demo.py --nodes 2 --trials 24

The sweep starts with no node at all. Nodes come with its trials and go once they are idle; the picture shows both.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

os.environ["RAY_AUTH_MODE"] = "disabled"  # a cluster of its own, on loopback

import typer

from raycomp.cli import guarded
from raycomp.errors import UserError
from raycomp.report import tables
from raycomp.results.store import Store, sweep_folder
from raycomp.search.local_autoscaler import autoscaling_cluster

_JOB = Path(__file__).with_name("pareto_search.py")
_DEFAULT_SPACE = Path(__file__).resolve().parents[1] / "search_spaces" / "streetscenes_vit_micro.yaml"
_EVERY = 0.5  # seconds between looks


@dataclass(frozen=True)
class Moment:
    """The cluster at one time."""

    seconds: float
    nodes: int
    running: int


def main(
    space: Annotated[Path, typer.Option(help="Search space file.")] = _DEFAULT_SPACE,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes at most.")] = 2,
    trials: Annotated[int, typer.Option(min=1, help="Recipes to measure.")] = 24,
    idle: Annotated[float, typer.Option(min=1, help="Seconds after which an idle node goes.")] = 12.0,
    name: Annotated[str, typer.Option(help="Name of the sweep.")] = "autoscaled",
    results: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
) -> None:
    """Run the sweep, watch the cluster until its last node has gone, and draw both over time."""
    console = tables.console()
    folder = sweep_folder(str(results), name)
    command = [sys.executable, str(_JOB), "--space", str(space), "--results", str(results), "--name", name]
    command += ["--trials", str(trials), "--workers", str(nodes)]
    with autoscaling_cluster(nodes, idle) as address:
        import ray

        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        started, began = time.time(), time.monotonic()
        job = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address})  # noqa: S603  our own job
        moments: list[Moment] = []
        try:
            for moment in _watched(job, began, idle):
                if not moments or moments[-1].nodes != moment.nodes:
                    console.print(f"{moment.seconds:6.1f} s: {moment.nodes} node(s)", highlight=False)
                moments.append(moment)
        finally:
            job.terminate()
            job.wait()
            ray.shutdown()
    if job.returncode != 0:
        raise UserError(f"the sweep ended with exit code {job.returncode}")
    from raycomp.report.autoscale import plot_cluster

    rows = Store(folder).rows()
    ends = [row.ended.timestamp() - started for row in rows if row.ended is not None]
    picture = Path(str(folder)) / "autoscale.png"
    seconds, counts, running = zip(*((m.seconds, m.nodes, m.running) for m in moments), strict=True)
    plot_cluster(seconds, counts, running, [end for end in ends if end > 0], f"{name}: up to {nodes} node(s)", picture)
    busy = sum(running) / max(1, sum(counts))
    most = f"at most {max(counts)} node(s), none at the start and {counts[-1]} in the end"
    console.print(f"{len(rows)} rows; {most}; trials held {busy:.0%} of the nodes' time", highlight=False)
    console.print(f"plot:  {picture}", highlight=False, soft_wrap=True)


def _watched(job: "subprocess.Popen[bytes]", began: float, idle: float) -> Iterator[Moment]:
    """The cluster every half second, until the job has ended and its nodes have gone."""
    import ray

    deadline = float("inf")
    while True:
        now = time.monotonic()
        if job.poll() is not None and deadline == float("inf"):
            deadline = now + 5 * idle + 30
        alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        total = sum(node["Resources"]["CPU"] for node in alive)
        used = total - ray.available_resources().get("CPU", 0.0)
        yield Moment(now - began, len(alive), max(0, round(used)))
        if job.poll() is not None and (not alive or now > deadline):
            yield Moment(now - began + _EVERY, len(alive), 0)
            return
        time.sleep(_EVERY)


if __name__ == "__main__":
    guarded(main)
