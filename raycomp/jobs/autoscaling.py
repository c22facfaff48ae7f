"""Run a job on a local cluster whose nodes come and go, and watch the cluster meanwhile."""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import ray

from raycomp.cluster.local_autoscaler import autoscaling_cluster
from raycomp.errors import UserError

_EVERY = 0.5  # seconds between looks


@dataclass(frozen=True)
class Moment:
    """The cluster at one time."""

    seconds: float
    """Since the job began."""
    nodes: int
    running: int
    """CPUs that trials hold."""


def watched(command: Sequence[str], nodes: int, idle: float, say: Callable[[str], None]) -> tuple[float, list[Moment]]:
    """Run a job on up to so many nodes.

    Args:
        idle: seconds after which an idle node goes.
        say: called with a line whenever a node comes or goes.

    Returns:
        When the job began, in seconds since the epoch, and the cluster over time.

    Raises:
        UserError: where the job fails.
    """
    with autoscaling_cluster(nodes, idle) as address:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        started, began = time.time(), time.monotonic()
        job = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address})  # noqa: S603  our own job
        moments: list[Moment] = []
        try:
            for moment in _moments(job, began, idle):
                if not moments or moments[-1].nodes != moment.nodes:
                    say(f"{moment.seconds:6.1f} s: {moment.nodes} node(s)")
                moments.append(moment)
        finally:
            job.terminate()
            job.wait()
            ray.shutdown()
    if job.returncode != 0:
        raise UserError(f"the sweep ended with exit code {job.returncode}")
    return started, moments


def _moments(job: "subprocess.Popen[bytes]", began: float, idle: float) -> Iterator[Moment]:
    """The cluster every half second, until the job has ended and its nodes have gone."""
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
