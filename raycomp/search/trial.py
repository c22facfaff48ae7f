# SPDX-License-Identifier: Apache-2.0
"""Run one trial without Ray: compress, recover and measure. `raycomp.search.sweep` runs it in actors."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import torch

from raycomp.context.sweep_context import SweepContext
from raycomp.data.samples import Samples
from raycomp.devices import device_name, free, is_out_of_memory, responds
from raycomp.errors import UserError
from raycomp.evaluate.measure import Measurement, Stopped, measure
from raycomp.evaluate.miou import Accuracy
from raycomp.models.segmenter import Segmenter
from raycomp.recover import FEW_IMAGES, recovered
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
            few = None if proposal.stage == "full" else FEW_IMAGES
            model = recovered(context, proposal.recipe, samples, device, folder, few)
            row = replace(row, seconds_build=time.perf_counter() - clock)
            row = replace(row, params=sum(p.numel() for p in model.parameters()))
            if proposal.recipe.adaptive:
                row = replace(row, batch=1)
            while (result := _measured(context, model, proposal, device, row.batch)) is None:
                free(device)  # outside the handler, as the traceback holds the tensors until it ends
                row = replace(row, batch=row.batch // 2)  # only throughput depends on the batch size
        return measured(row, context, result, per_image=proposal.stage != "search"), False
    except Stopped as early:
        return stopped(row, early), False
    except (RuntimeError, MemoryError, ValueError, TimeoutError, UserError) as error:
        return failed(row, error), is_out_of_memory(error)


def _measured(
    context: SweepContext, model: Segmenter, proposal: Proposal, device: torch.device, batch: int
) -> Measurement | None:
    """Measure with this batch size; None if the device lacks memory for it and a smaller one may fit."""
    try:
        return measured_in(context, model, proposal.stage, device, batch, proposal.thresholds)
    except RuntimeError as error:
        if batch == 1 or not is_out_of_memory(error):
            raise
    return None


def measured_in(
    context: SweepContext,
    model: Segmenter,
    stage: str,
    device: torch.device,
    batch: int | None = None,
    thresholds: Sequence[Accuracy] = (),
) -> Measurement:
    """Measure a model as the sweep configures, by default with its batch size; see `measure`.

    Latency is not timed where trials share a GPU, as it would depend on the other trials, nor that of an INT8 recipe,
    which torch computes in float32.
    """
    config = context.config
    settings = config.evaluation if batch is None else config.evaluation.model_copy(update={"batch": batch})
    exclusive = not 0 < (config.search.gpus_per_trial or 0) < 1
    timed = exclusive and model.recipe.precision == "fp32"
    return measure(model, context.evalset, stage, settings, config.data, device, thresholds, timed)
