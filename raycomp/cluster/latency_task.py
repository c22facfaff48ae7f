# SPDX-License-Identifier: Apache-2.0
"""Measure a latency table once, on an otherwise idle worker, and keep it in the results folder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from raycomp.cluster.connection import finished, gpus_per_trial, remote, result
from raycomp.config import SweepConfig
from raycomp.context.sweep_context import SweepContext
from raycomp.deploy.latency_fit import Sources, Timing, drawn, exports, fitted, widths_alone
from raycomp.deploy.precision_facts import Precision
from raycomp.devices import device_name
from raycomp.evaluate.latency_error import TABLE_FILE
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.recipe import Recipe, dense
from raycomp.space import Space
from raycomp.storage import AnyPath

_LINES = 4  # of progress while models are exported


def latency_table(
    path: AnyPath, context: Any, config: SweepConfig, pruning: bool, report: Callable[[str], None]
) -> LatencyTable:
    """Read the table, or measure and write it.

    Args:
        context: A `SweepContext` or a Ray reference to one.
        pruning: Whether recipes only prune, by NViT, in batches of the evaluation; else they are of the search space.
        report: Called with a line if the table was measured on another device than the workers'. It stays in use, as
            the sweep's budget and rows depend on it.

    Raises:
        UserError: If the file is not a latency table, or the measurement fails.
    """
    if not path.is_file():
        search = config.search
        graphs = [] if pruning or search.latency_engine == "torch" else _exported(context, config, report)
        task = remote(_measure, config, retries=2, cpus=search.latency_threads or 1)
        measured: LatencyTable = result(task.remote(context, pruning, *graphs))
        measured.save(path)
        return measured
    table = LatencyTable.load(path)
    device = result(remote(device_name, config, retries=2).remote()) if gpus_per_trial(config) else "cpu"
    if device != table.device:
        report(
            f"note: {path} was timed on {table.device}, but workers here have {device}: predicted times remain those "
            f"of {table.device}; for {device}, start a new sweep under another name"
        )
    return table


def with_latency(context: SweepContext, folder: AnyPath, report: Callable[[str], None]) -> SweepContext:
    """Return the context with its latency table, which is kept in the folder."""
    path, search = folder / TABLE_FILE, context.config.search
    if not path.is_file():
        count = len(drawn(_space(context)))
        report(f"timing {count} models of the space in {search.latency_engine} (kept in {path})")
    table = latency_table(path, context, context.config, pruning=False, report=report)
    report(f"dense {table.latency_ms(dense(context.shape)):.3g} ms by the latency table ({table.about})")
    return replace(context, latency=table)


def _exported(context: SweepContext, config: SweepConfig, report: Callable[[str], None]) -> list[Any]:
    """Export the models to time on all workers at once; return references to their graphs, in order."""
    space = _space(context)
    task = remote(_export, config, retries=2)
    graphs = [task.remote(space, recipe, _precisions(config)) for recipe in drawn(space)]
    for number, done in enumerate(finished(graphs), start=1):
        result(done)
        if number * _LINES // len(graphs) > (number - 1) * _LINES // len(graphs):
            report(f"exported {number} of {len(graphs)} models for onnxruntime")
    return graphs


def _export(space: Space, recipe: Recipe, precisions: Sequence[Precision], device: torch.device) -> Sources:
    del device  # tracing is done on the CPU
    return exports(space, recipe, precisions)


def _measure(context: SweepContext, pruning: bool, *graphs: Sources, device: torch.device) -> LatencyTable:
    config, shape = context.config, context.shape
    search, dtype = config.search, getattr(torch, config.evaluation.dtype)
    if pruning:
        return fitted(widths_alone(shape, context.window), Timing(config.evaluation.batch, device, dtype))
    threads = search.latency_threads or torch.get_num_threads()
    timing = Timing(search.latency_batch, device, dtype, search.latency_engine, _precisions(config), threads)
    return fitted(_space(context), timing, sources=graphs)


def _precisions(config: SweepConfig) -> tuple[Precision, ...]:
    """Return the precisions to time: those of the space, and float32, which the dense model has."""
    return ("fp32", "int8") if "int8" in config.space.precision else ("fp32",)


def _space(context: SweepContext) -> Space:
    """Return the space of the sweep, without its limits."""
    config = context.config
    return Space(context.shape, config.space, context.window, policy=config.policy.kind)
