"""Latency of a model: warm-up, then the median of repeated runs."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

_WARM_UP = 3


def latency_ms(model: Callable[[Tensor], Tensor], images: Tensor, runs: int = 15) -> float:
    """Median milliseconds of one forward pass on `images`."""
    times = []
    for run in range(_WARM_UP + runs):
        synchronise(images.device)
        started = time.perf_counter()
        model(images)
        synchronise(images.device)
        if run >= _WARM_UP:
            times.append(time.perf_counter() - started)
    return 1e3 * median(times)


def synchronise(device: torch.device) -> None:
    """Wait for the device to finish, where it runs ahead."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
