# SPDX-License-Identifier: Apache-2.0
"""Run a job on a local autoscaling cluster and observe its nodes."""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import ray

from raycomp.cluster.local_autoscaler import autoscaling_cluster
from raycomp.errors import UserError

_INTERVAL = 0.5  # seconds between observations


@dataclass(frozen=True)
class Moment:
    """The state of the cluster at one time."""

    seconds: float
    """Time since the start of the job."""
    nodes: int
    running: int
    """CPUs in use by trials."""


def watched(command: Sequence[str], nodes: int, idle: float, say: Callable[[str], None]) -> tuple[float, list[Moment]]:
    """Run a job on at most `nodes` nodes, which are removed after `idle` seconds without work.

    Args:
        say: Called with a line whenever the number of nodes changes.

    Returns:
        The start of the job in seconds since the epoch, and the cluster over time.

    Raises:
        UserError: If the job fails.
    """
    with autoscaling_cluster(nodes, idle) as address:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        started, began = time.time(), time.monotonic()
        job = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address})  # noqa: S603  our job
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
    """Yield the state of the cluster until the job has ended and its nodes are removed."""
    deadline: float | None = None
    while True:
        now = time.monotonic()
        if job.poll() is not None and deadline is None:
            deadline = now + 5 * idle + 30
        alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        total = sum(node["Resources"]["CPU"] for node in alive)
        used = total - ray.available_resources().get("CPU", 0.0)
        yield Moment(now - began, len(alive), max(0, round(used)))
        if deadline is not None and (not alive or now > deadline):
            yield Moment(now - began + _INTERVAL, len(alive), 0)
            return
        time.sleep(_INTERVAL)
