# SPDX-License-Identifier: Apache-2.0
"""Measure a latency table once, on an otherwise idle worker, and keep it in the results folder."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from raycomp.cluster.connection import gpus_per_trial, remote, result
from raycomp.config import SweepConfig
from raycomp.context.sweep_context import SweepContext
from raycomp.devices import device_name
from raycomp.evaluate.latency_error import TABLE_FILE
from raycomp.evaluate.latency_fit import fitted
from raycomp.evaluate.latency_table import LatencyTable, measure_latency
from raycomp.merging import METHODS
from raycomp.recipe import dense
from raycomp.storage import AnyPath


def latency_table(
    path: AnyPath, context: Any, config: SweepConfig, batch: int, merging: bool, report: Callable[[str], None]
) -> LatencyTable:
    """Read the table, or measure and write it.

    Args:
        context: A `SweepContext` or a Ray reference to one.
        batch: Number of images timed together.
        merging: Whether recipes merge; see `measure_latency`.
        report: Called with a line if the table was measured on another device than the workers'. It stays in use, as
            the sweep's budget and rows depend on it.

    Raises:
        UserError: If the file is not a latency table, or the measurement fails.
    """
    if not path.is_file():
        measured: LatencyTable = result(remote(_measure, config, retries=2).remote(context, batch, merging))
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
    path, config = folder / TABLE_FILE, context.config
    if not path.is_file():
        report(f"timing the parts of the model at a grid of widths and tokens (kept in {path})")
    table = latency_table(path, context, config, config.search.latency_batch, merging=True, report=report)
    report(f"dense {table.latency_ms(dense(context.shape)):.3g} ms by the latency table ({table.about})")
    return replace(context, latency=table)


def _measure(context: SweepContext, batch: int, merging: bool, device: torch.device) -> LatencyTable:
    config, shape, dtype = context.config, context.shape, getattr(torch, context.config.evaluation.dtype)
    method = METHODS[config.space.merge].standard(shape, config.policy.kind) if merging else None
    table = measure_latency(shape, batch, device, dtype, config.data.window, method)
    return fitted(table, batch, device, dtype)
