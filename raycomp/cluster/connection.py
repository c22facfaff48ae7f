"""Join or start Ray, with its settings in one place."""

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
    """Join the cluster of RAY_ADDRESS (set in a Ray job) or of `ray start`, or start Ray on this machine.

    Raises:
        UserError: where the cluster that is to be joined does not answer, or does not let the job in, and where the
            temporary folder has too long a path.
    """
    import ray
    from ray.exceptions import RayError

    if not ray.is_initialized():
        there = joined()
        if there is not None:
            there.check()
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ImportError, OSError, RayError, RuntimeError, ValueError) as error:
            if there is not None:
                raise there.refused(" ".join(f"{error.__cause__ or error}".split())) from None
            if "AF_UNIX" not in str(error):
                raise
            variable = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
            raise UserError(
                f"{variable} {os.environ.get(variable)}: too long a path for Ray's sockets, which may have 107 bytes; "
                "set RAY_TMPDIR to a shorter one, for example /tmp"
            ) from None
    stop_like_ctrl_c()


def stop_like_ctrl_c(before: Callable[[], None] = lambda: None) -> None:
    """Take SIGTERM, by which `ray job stop` ends a job, as Ctrl-C; after `connect`, as Ray sets a handler of its own.

    Args:
        before: what cannot wait for the sweep to wind down, as three seconds later comes SIGKILL.
    """

    def stop(_: int, frame: FrameType | None) -> None:
        before()
        ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(ctrl_c):  # as in a job that a shell started in the background
            raise KeyboardInterrupt
        ctrl_c(signal.SIGINT, frame)  # Tune has its own while a sweep runs

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def is_empty() -> bool:
    """Whether the cluster has no CPU for a trial: one that is still to grow, to a size it does not tell."""
    import ray

    return not ray.cluster_resources().get("CPU")


def nodes() -> list[dict[str, float]]:
    """Resources of every node that is up."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def gpus_per_trial(config: SweepConfig) -> float:
    """As configured; by default one where the cluster has any."""
    import ray

    if config.search.gpus_per_trial is not None:
        return config.search.gpus_per_trial
    return 1.0 if ray.cluster_resources().get("GPU") else 0.0


def trial_resources(config: SweepConfig) -> dict[str, float]:
    """What a trial asks Ray for, by Ray's names; memory in bytes."""
    memory = config.search.memory_per_trial
    own = {} if memory is None else {"memory": memory * 2**30}
    return {"CPU": 1.0, "GPU": gpus_per_trial(config), **own}


def room(node: Mapping[str, float], config: SweepConfig) -> int:
    """Trials that a node can run at a time; a share of a GPU lies on one card."""
    wanted = trial_resources(config)
    gpus = wanted.pop("GPU")
    fits = [int(node.get(name, 0.0) / amount) for name, amount in wanted.items()]
    if gpus:
        cards = node.get("GPU", 0.0)
        fits.append(int(cards) * int(1 / gpus + 1e-9) if gpus < 1 else int(cards / gpus))
    return min(fits)


def workers(config: SweepConfig) -> int:
    """Trials at a time: as configured, or as many as the cluster's nodes have room for."""
    if config.search.workers is not None:
        return config.search.workers
    return max(1, sum(room(node, config) for node in nodes()))


def prepare_worker() -> "torch.device":
    """Set up a task or actor: one thread, as many workers as cores run side by side. Returns its GPU, else the CPU.

    Raises:
        UserError: for a GPU that Ray gives and torch does not see.
    """
    import ray
    import torch

    from raycomp.devices import prepare_device

    show_log()
    torch.set_num_threads(1)
    keep_freed_memory()
    given = ray.get_gpu_ids()
    if given and not torch.cuda.is_available():
        raise UserError(
            f"Ray gives a worker on {platform.node()} GPU {given[0]}, which torch {torch.__version__} does not see "
            "(driver, or a torch without CUDA?); --gpus 0 runs trials on CPUs"
        )
    device = torch.device("cuda" if given else "cpu")
    prepare_device(device)
    return device


def remote(function: Callable[..., Any], config: SweepConfig, retries: int) -> Any:
    """A remote function with a core, and a GPU where there are any; resources come first, or Ray keeps GPU workers."""
    import ray

    return ray.remote(num_cpus=1, num_gpus=gpus_per_trial(config), max_retries=retries)(function)


def finished(waiting: Iterable[Any]) -> Iterator[Any]:
    """References in the order in which they become ready."""
    import ray

    left = list(waiting)
    while left:
        done, left = ray.wait(left, num_returns=1)
        yield from done


def result(reference: Any) -> Any:
    """What a task returned; what was wrong with its input is raised as it was."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, UserError) else error) from None


def disconnect() -> None:
    """Leave the cluster; a Ray that `connect` started ends."""
    import ray

    ray.shutdown()
