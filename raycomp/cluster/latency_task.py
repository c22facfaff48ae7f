# SPDX-License-Identifier: Apache-2.0
"""Measure a latency table once, on an otherwise idle worker, and keep it in the results folder."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from raycomp.cluster.connection import gpus_per_trial, remote, result
from raycomp.config import SweepConfig
from raycomp.context.sweep_context import SweepContext
from raycomp.deploy.latency_fit import Timing, fitted, widths_alone
from raycomp.devices import device_name
from raycomp.evaluate.latency_error import TABLE_FILE
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.recipe import dense
from raycomp.space import Space
from raycomp.storage import AnyPath


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
        threads = config.search.latency_threads or 1
        measured: LatencyTable = result(remote(_measure, config, retries=2, cpus=threads).remote(context, pruning))
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
        once = "; exporting them takes some minutes" if search.latency_engine == "onnxruntime" else ""
        report(f"timing models of the space in {search.latency_engine} (kept in {path}){once}")
    table = latency_table(path, context, context.config, pruning=False, report=report)
    report(f"dense {table.latency_ms(dense(context.shape)):.3g} ms by the latency table ({table.about})")
    return replace(context, latency=table)


def _measure(context: SweepContext, pruning: bool, device: torch.device) -> LatencyTable:
    config, shape = context.config, context.shape
    search, dtype = config.search, getattr(torch, config.evaluation.dtype)
    if pruning:
        return fitted(widths_alone(shape, context.window), Timing(config.evaluation.batch, device, dtype))
    threads = search.latency_threads or torch.get_num_threads()
    timing = Timing(search.latency_batch, device, dtype, search.latency_engine, threads=threads)
    return fitted(Space(shape, config.space, context.window, policy=config.policy.kind), timing)
