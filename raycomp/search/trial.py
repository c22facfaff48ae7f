# SPDX-License-Identifier: Apache-2.0
"""Run one trial without Ray: compress, recover and measure. `raycomp.search.sweep` runs it in actors."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import torch

from raycomp.config import SweepConfig
from raycomp.context.sweep_context import SweepContext
from raycomp.data.samples import Samples
from raycomp.devices import device_name, free, is_out_of_memory, responds
from raycomp.errors import UserError
from raycomp.evaluate.measure import Measurement, Stopped, measure
from raycomp.models.segmenter import Segmenter
from raycomp.recover import recovered
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.search.rows import described, failed, measured, stopped
from raycomp.search.timeout import time_limit
from raycomp.storage import AnyPath


class DeviceLost(Exception):  # noqa: N818  not an error of the recipe
    """The device is out of memory or no longer computes: this process must exit, and another may measure the recipe."""


def run_trial(
    context: SweepContext,
    samples: Samples | None,
    proposal: Proposal,
    folder: AnyPath,
    device: torch.device,
    commit: str,
) -> Row:
    """Measure a proposal. A recipe that cannot be built or measured gives a failed row, not an exception.

    Args:
        samples: Training images for the recovery; None opens the training split.
        folder: Folder of the sweep, which keeps the models that the recovery trains.

    Raises:
        DeviceLost: If the device lacks memory for the recovery or for a batch of one, or no longer computes.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    row = replace(described(context, proposal), started=started, git_commit=commit, device=device_name(device))
    row, out_of_memory = _attempt(context, samples, proposal, folder, device, row)
    # From here on, neither a traceback nor the model holds device memory.
    if row.status == "failed" and (out_of_memory or (device.type == "cuda" and not responds(device))):
        raise DeviceLost(row.error)
    return replace(row, seconds=time.perf_counter() - clock)


def _attempt(
    context: SweepContext, samples: Samples | None, proposal: Proposal, folder: AnyPath, device: torch.device, row: Row
) -> tuple[Row, bool]:
    """Return the row with its measurement or error, and whether the device was out of memory."""
    clock = time.perf_counter()
    try:
        with time_limit(context.config.search.trial_seconds):
            model = recovered(context, proposal.recipe, samples, device, folder)
            row = replace(row, seconds_build=time.perf_counter() - clock)
            row = replace(row, params=sum(p.numel() for p in model.parameters()))
            result = None
            for batch in _batches(context, proposal):
                row = replace(row, batch=batch)
                result = _measured(context, model, proposal, device, batch)
                if result is not None:
                    break
                free(device)  # outside the handler, as the traceback holds the tensors until it ends
        assert result is not None
        return measured(row, context, result, per_image=proposal.stage != "search"), False
    except Stopped as early:
        return stopped(row, early), False
    except (RuntimeError, MemoryError, ValueError, TimeoutError, UserError) as error:
        return failed(row, error), is_out_of_memory(error)


def _batches(context: SweepContext, proposal: Proposal) -> Iterator[int]:
    """Yield the configured batch size, then its halves down to 1. Only throughput depends on it, accuracy does not."""
    batch = 1 if proposal.recipe.adaptive else context.config.evaluation.batch
    while batch:
        yield batch
        batch //= 2


def _measured(
    context: SweepContext, model: Segmenter, proposal: Proposal, device: torch.device, batch: int
) -> Measurement | None:
    """Measure with this batch size; None if the device lacks memory for it and a smaller one may fit."""
    settings = context.config.evaluation.model_copy(update={"batch": batch})
    exclusive = not shares_card(context.config)
    try:
        return measure(
            model,
            context.evalset,
            proposal.stage,
            settings,
            context.config.data,
            device,
            proposal.thresholds,
            exclusive,
        )
    except RuntimeError as error:
        if batch == 1 or not is_out_of_memory(error):
            raise
    return None


def shares_card(config: SweepConfig) -> bool:
    """Return whether trials share a GPU, which makes the latency of one depend on the others."""
    return 0 < (config.search.gpus_per_trial or 0) < 1
