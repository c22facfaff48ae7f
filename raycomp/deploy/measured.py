# SPDX-License-Identifier: Apache-2.0
"""Measure every precision of an ONNX export in onnxruntime: accuracy on the full set, and time side by side."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from platform import machine

import torch

from raycomp.data.evalset import EvalSet
from raycomp.deploy.onnx import RUNTIME, open_session, run_bound
from raycomp.deploy.precision_facts import PrecisionFigures
from raycomp.evaluate.latency import median_seconds, own_clock
from raycomp.evaluate.measure import accuracy
from raycomp.evaluate.miou import Accuracy
from raycomp.settings.evaluation import EvaluationConfig
from raycomp.settings.model_and_data import DataConfig
from raycomp.shape import ModelShape

BATCHES = (1, 16)
_CPU = torch.device("cpu")
_CPUINFO = Path("/proc/cpuinfo")
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
_THREADS, _ROUNDS, _WARM_UP = 1, 15, 3  # the defaults of raycomp speed


def measured(
    graphs: Mapping[str, bytes],
    shape: ModelShape,
    data: EvalSet,
    evaluation: EvaluationConfig,
    sizes: DataConfig,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, PrecisionFigures]:
    """Measure serialised ONNX graphs of one model on the CPU; times are those of one thread, without waiting.

    Args:
        graphs: by the name of their precision; changes are relative to `fp32`, which must be among them.
        shape: of the dense model.
        report: called with a step, and with the number of finished units of it and of all.

    Raises:
        UserError: if no pixel of the clean images, or of the corrupted images, is labelled.
    """
    accuracies = {}
    for name, source in graphs.items():
        run, step = partial(run_bound, open_session(source, _CPU)), f"measuring {name}"
        accuracies[name] = accuracy(run, shape, data, evaluation, sizes, _CPU, partial(report, step))
        del run  # and the session, whose threads would disturb the timing
    sessions = {name: open_session(source, _CPU, _THREADS) for name, source in graphs.items()}
    seconds = {}
    for number, batch in enumerate(BATCHES, start=1):
        images = torch.randn(batch, 3, *sizes.window_for(shape))
        runs = {name: partial(run_bound, session, images) for name, session in sessions.items()}
        seconds[batch] = median_seconds(runs, _CPU, _ROUNDS, _WARM_UP, own_clock(_CPU, _THREADS))
        report("timing", number, len(BATCHES))
    images_measured = len(data.chosen(evaluation.full))
    return {name: _compared(name, accuracies, seconds, images_measured) for name in graphs}


def _compared(
    name: str,
    accuracies: Mapping[str, Accuracy],
    seconds: Mapping[int, Mapping[str, float]],
    images: int,
) -> PrecisionFigures:
    found, reference = accuracies[name], accuracies["fp32"]
    return PrecisionFigures(
        clean_miou=found.clean,
        corrupted_miou=found.corrupted,
        clean_change=100 * (found.clean - reference.clean),
        corrupted_change=100 * (found.corrupted - reference.corrupted),
        images=images,
        latency_ms={batch: 1e3 * times[name] for batch, times in seconds.items()},
        speedup={batch: times["fp32"] / times[name] for batch, times in seconds.items()},
        setting=f"{processor()}, {_THREADS} thread, {RUNTIME}",
    )


def processor() -> str:
    """Return the name of the processor where Linux tells it, else the architecture: `AMD EPYC 9454P`."""
    names = _of_processor("model name")
    return names[0] if names else machine()


def slow_in_int8() -> str:
    """Return a line if Linux tells that the processor has no instruction for products of 8-bit integers, else ""."""
    flags = set(" ".join([*_of_processor("flags"), *_of_processor("Features")]).split())  # of x86, of Arm
    if not flags or flags & _INT8_FLAGS:
        return ""
    return f"int8: {processor()} has no instructions for 8-bit products ({', '.join(sorted(_INT8_FLAGS))})"


def _of_processor(field: str) -> list[str]:
    """Return the values of a field of /proc/cpuinfo; none where there is no such file."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() == field]
