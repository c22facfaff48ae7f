"""Join or start Ray, with its settings in one place."""

import logging
import os
from typing import TYPE_CHECKING

from raycomp.config import SweepConfig
from raycomp.memory import keep_freed_memory

if TYPE_CHECKING:
    import torch

os.environ.setdefault("RAY_AUTH_MODE", "token")  # explicit: a token left behind would decide otherwise
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # no banner before our own line of progress
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no warning on machines without a GPU


def connect() -> None:
    """Join the cluster of RAY_ADDRESS (set in a Ray job), or start Ray on this machine."""
    import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def gpus_per_trial(config: SweepConfig) -> float:
    """As configured; by default one where the cluster has any."""
    import ray

    if config.search.gpus_per_trial is not None:
        return config.search.gpus_per_trial
    return 1.0 if ray.cluster_resources().get("GPU") else 0.0


def prepare_worker() -> "torch.device":
    """Set up a task or actor: one thread, as many workers as cores run side by side. Returns its GPU, else the CPU."""
    import ray
    import torch

    torch.set_num_threads(1)
    keep_freed_memory()
    return torch.device("cuda" if ray.get_gpu_ids() else "cpu")


def disconnect() -> None:
    """Leave the cluster; a Ray that `connect` started ends."""
    import ray

    ray.shutdown()
