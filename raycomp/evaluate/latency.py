# SPDX-License-Identifier: Apache-2.0
"""Time models: warm up, then repeat runs; models to compare take turns."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

import torch

Name = TypeVar("Name")


def median_seconds(
    runs: Mapping[Name, Callable[[], object]],
    device: torch.device,
    rounds: int,
    warm_up: int,
    clock: Callable[[], float] = time.perf_counter,
    of_rounds: Callable[[Sequence[float]], float] = median,
) -> dict[Name, float]:
    """Return the median time of each run; runs take turns, so that changes in machine speed affect all of them.

    On a GPU this is wall-clock time from idle to idle. CUDA events would miss the launches before the first kernel, and
    with many short kernels the host is the bottleneck.

    Args:
        clock: `time.thread_time` for runs in this thread alone, which other work on the machine then hardly affects.
        of_rounds: what to return of the times of a run, in place of the median.
    """
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + rounds):
        for name, run in runs.items():
            _synchronise(device)
            started = clock()
            run()
            _synchronise(device)
            if turn >= warm_up:
                times[name].append(clock() - started)
    return {name: of_rounds(values) for name, values in times.items()}


def own_clock(device: torch.device, threads: int) -> Callable[[], float]:
    """Return the clock for runs on a device: the time of this thread if it is alone, else that of the wall."""
    return time.thread_time if device.type == "cpu" and threads == 1 else time.perf_counter


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
