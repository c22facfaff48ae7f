# SPDX-License-Identifier: Apache-2.0
"""Join or start Ray, and set up its workers and tasks."""

import logging
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from raycomp.cluster.address import joined
from raycomp.config import SweepConfig
from raycomp.errors import UserError, show_log
from raycomp.memory import keep_freed_memory

if TYPE_CHECKING:
    import torch


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (set in a Ray job) or `ray start` started, or start Ray on this machine.

    Raises:
        UserError: If the cluster does not answer or refuses the job, or the path of the temporary folder is too long.
    """
    import ray
    from ray.exceptions import RayError

    if not ray.is_initialized():
        address = joined()
        if address is not None:
            address.check()
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ImportError, OSError, RayError, RuntimeError, ValueError) as error:
            if address is not None:
                raise address.refused(" ".join(f"{error.__cause__ or error}".split())) from None
            if "AF_UNIX" not in str(error):
                raise
            variable = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
            raise UserError(
                f"{variable} {os.environ.get(variable)}: path too long for Ray's sockets (at most 107 bytes); "
                "set RAY_TMPDIR to a shorter one, for example /tmp"
            ) from None
    stop_like_ctrl_c()


def stop_like_ctrl_c(before: Callable[[], None] = lambda: None) -> None:
    """Handle SIGTERM, which `ray job stop` sends, like Ctrl-C. Call after `connect`, as Ray sets a handler as well.

    Args:
        before: Called first, for work that cannot wait for the sweep to stop, as SIGKILL follows after 3 seconds.
    """

    def stop(_: int, frame: FrameType | None) -> None:
        before()
        ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(ctrl_c):  # e.g. in a job started in a shell's background
            raise KeyboardInterrupt
        ctrl_c(signal.SIGINT, frame)  # Tune installs a handler while a sweep runs

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def nodes() -> list[dict[str, float]]:
    """Return the resources of every live node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def gpus_per_trial(config: SweepConfig) -> float:
    """Return the configured number of GPUs per trial; by default 1 if the cluster has any, else 0."""
    import ray

    if config.search.gpus_per_trial is not None:
        return config.search.gpus_per_trial
    return 1.0 if ray.cluster_resources().get("GPU") else 0.0


def trial_resources(config: SweepConfig) -> dict[str, float]:
    """Return the resources a trial requests, under Ray's names; memory in bytes."""
    gib = config.search.memory_per_trial
    return {"CPU": 1.0, "GPU": gpus_per_trial(config)} | ({} if gib is None else {"memory": gib * 2**30})


def room(node: Mapping[str, float], config: SweepConfig) -> int:
    """Return how many trials a node can run at a time; a fraction of a GPU comes from one device."""
    requested = trial_resources(config)
    gpus, available = requested.pop("GPU"), node.get("GPU", 0.0)
    counts = [int(node.get(name, 0.0) / amount) for name, amount in requested.items()]
    if gpus:
        counts.append(int(available) * int(1 / gpus + 1e-9) if gpus < 1 else int(available / gpus))
    return min(counts)


def workers(config: SweepConfig) -> int:
    """Return the number of concurrent trials: as configured, or as many as fit on the cluster's nodes."""
    if config.search.workers is not None:
        return config.search.workers
    return max(1, sum(room(node, config) for node in nodes()))


def prepare_worker() -> "torch.device":
    """Set up the process of a task or actor, with one thread, and return its GPU, else the CPU.

    Raises:
        UserError: If Ray assigns a GPU that torch does not see.
    """
    import ray
    import torch

    from raycomp.devices import prepare_device

    show_log()
    torch.set_num_threads(1)
    keep_freed_memory()
    gpus = ray.get_gpu_ids()
    if gpus and not torch.cuda.is_available():
        raise UserError(
            f"Ray assigned GPU {gpus[0]} to a worker on {platform.node()}, but torch {torch.__version__} does not see "
            "it (driver, or a torch without CUDA?); --gpus 0 runs trials on CPUs"
        )
    device = torch.device("cuda" if gpus else "cpu")
    prepare_device(device)
    return device


def remote(function: Callable[..., Any], config: SweepConfig, retries: int, cpus: int = 1) -> Any:
    """Make a remote function with `cpus` cores and a trial's GPUs; it passes the worker's `device` to `function`.

    Resources are set here, since with `options` Ray would keep idle GPU workers.
    """
    import ray

    def task(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs, device=prepare_worker())

    task.__name__ = function.__name__
    return ray.remote(num_cpus=cpus, num_gpus=gpus_per_trial(config), max_retries=retries)(task)


def finished(waiting: Iterable[Any]) -> Iterator[Any]:
    """Yield references as they become ready."""
    import ray

    pending = list(waiting)
    while pending:
        ready, pending = ray.wait(pending, num_returns=1)
        yield from ready


def result(reference: Any) -> Any:
    """Return the result of a task; a UserError in the task is raised as it is."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, UserError) else error) from None


def disconnect() -> None:
    """Leave the cluster; stop Ray if `connect` started it."""
    import ray

    ray.shutdown()
