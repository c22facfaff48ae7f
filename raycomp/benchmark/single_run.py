# SPDX-License-Identifier: Apache-2.0
"""One run: compress, recover, measure. It needs no Ray and writes only the state of an unfinished recovery."""

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from raycomp.benchmark.conditions import STAGE, Run
from raycomp.benchmark.operating_points import OperatingPoint, built, find_adaptive
from raycomp.benchmark.pictures import Pictures, pictures
from raycomp.compress.apply import remerge
from raycomp.context.sweep_context import SweepContext
from raycomp.data.samples import Samples
from raycomp.devices import device_name
from raycomp.flops import gflops
from raycomp.recipe import dense
from raycomp.recover import finetuned
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.search.rows import described, failed, measured
from raycomp.search.trial import measured_in
from raycomp.storage import AnyPath


@dataclass(frozen=True)
class Measured:
    """Result of a run."""

    row: Row
    pictures: Pictures | None = None
    """Data of Fig. 3; only for the first seed."""
    weights: dict[str, np.ndarray] | None = None
    """float32 weights of the measured model, without the policy network; only for the first seed."""


def measure_run(
    context: SweepContext,
    samples: Samples | None,
    run: Run,
    point: OperatingPoint,
    state: AnyPath,
    device: torch.device,
    commit: str,
) -> Measured:
    """Measure a run on the full evaluation set. A failure gives a failed row, not an exception.

    Args:
        samples: Training images of the recovery; None opens the data set.
        state: File for the state of an unfinished recovery; the caller removes it once the row is written.
    """
    clock, config = time.perf_counter(), context.config
    facts: dict[str, Any] = {"started": datetime.now(UTC), "git_commit": commit, "device": device_name(device)}
    row = replace(_described(context, run, point), **facts)
    extras: tuple[Pictures | None, dict[str, np.ndarray] | None] = (None, None)
    try:
        model = built(context, point)
        building = time.perf_counter() - clock
        facts |= {"params": sum(p.numel() for p in model.parameters()), "seconds_build": building}
        row = replace(row, **facts)
        if config.benchmark.recovery.steps:
            model = finetuned(context, model, config.benchmark.recovery, run.seed, samples, device, state)
            if point.recipe.adaptive:  # fine-tuning changes features and thus token counts: match the strength again
                point = find_adaptive(context, deepcopy(model), point.target, device)
                remerge(model, point.recipe)
                row = replace(_described(context, run, point), **facts)
        row = replace(row, seconds_recover=time.perf_counter() - clock - building)
        weights = {name: t.cpu().numpy() for name, t in model.state_dict().items() if ".sharer." not in name}
        result = measured_in(context, model, "full", device)
        row = replace(measured(row, context, result), batch=1 if point.recipe.adaptive else config.evaluation.batch)
        if run.seed == config.benchmark.seeds[0]:
            extras = (pictures(model, context, device), weights)
    except Exception as error:  # a failed model must not stop the others
        row = failed(row, error)
    return Measured(replace(row, seconds=time.perf_counter() - clock), *extras)


def unreachable(point: OperatingPoint) -> str:
    """Return the error message of a method that cannot reach its target GFLOPs."""
    return f"cannot reach {point.target:.4g} GFLOPs: the minimum is {point.gflops:.4g}, at {point.text}"


def failed_row(context: SweepContext, run: Run, point: OperatingPoint, problem: str) -> Row:
    """Return the row of a run that was not measured."""
    return failed(replace(_described(context, run, point), started=datetime.now(UTC)), problem)


def _described(context: SweepContext, run: Run, point: OperatingPoint) -> Row:
    proposal = Proposal(0, STAGE, run.condition.method, run.condition.label, point.recipe)
    steps = context.config.benchmark.recovery.steps
    return replace(
        described(context, proposal),
        seed=run.seed,
        operating_point=point.text,
        target_gflops=point.target,
        gflops=point.gflops,
        gflops_share=point.gflops / gflops(context.shape, dense(context.shape), context.window),
        recovery="finetune" if steps else "none",
        recovery_steps=steps,
    )
