"""One cell: compress, recover, measure. Without Ray, and without writing anything but a recovery under way."""

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch

from raycomp.benchmark.conditions import STAGE, Cell
from raycomp.benchmark.operating_points import Setting, built, find_adaptive
from raycomp.benchmark.pictures import Pictures, pictures
from raycomp.compress.apply import remerge
from raycomp.context import Base
from raycomp.data.samples import Samples
from raycomp.devices import device_name
from raycomp.evaluate.measure import measure
from raycomp.flops import gflops
from raycomp.recipe import dense
from raycomp.recover import finetuned
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.search.rows import described, failed, measured
from raycomp.search.trial import shares_card
from raycomp.storage import AnyPath


@dataclass(frozen=True)
class Measured:
    """What a cell gives."""

    row: Row
    pictures: Pictures | None = None
    """For the first seed: what Fig. 3 shows."""
    weights: dict[str, np.ndarray] | None = None
    """For the first seed: the model that was measured, without the policy network; float32."""


def measure_cell(
    base: Base, samples: Samples | None, cell: Cell, setting: Setting, state: AnyPath, device: torch.device, commit: str
) -> Measured:
    """Measure a cell on the full evaluation set. What fails gives a failed row, not an exception.

    Args:
        samples: training images of the recovery; None opens the data set's own.
        state: file of the recovery under way, to be removed once the row is written.
    """
    started, clock, config = datetime.now(UTC), time.perf_counter(), base.config
    row = _described(base, cell, setting, started)
    row = replace(row, git_commit=commit, device=device_name(device))
    kept: tuple[Pictures | None, dict[str, np.ndarray] | None] = (None, None)
    try:
        model = built(base, setting)
        building = time.perf_counter() - clock
        row = replace(row, params=sum(p.numel() for p in model.parameters()), seconds_build=building)
        if config.benchmark.recovery.steps:
            model = finetuned(base, model, config.benchmark.recovery, cell.seed, samples, device, state)
            if setting.recipe.adaptive:  # other features, other tokens: the strength is matched anew
                setting = find_adaptive(base, deepcopy(model), setting.target, device)
                remerge(model, setting.recipe)
                again = _described(base, cell, setting, started)
                row = replace(
                    again, git_commit=commit, device=row.device, params=row.params, seconds_build=row.seconds_build
                )
        row = replace(row, seconds_recover=time.perf_counter() - clock - building)
        weights = {name: t.cpu().numpy() for name, t in model.state_dict().items() if ".sharer." not in name}
        result = measure(
            model, base.evalset, "full", config.evaluation, config.data, device, timed=not shares_card(config)
        )
        row = replace(measured(row, base, result), batch=1 if setting.recipe.adaptive else config.evaluation.batch)
        if cell.seed == config.benchmark.seeds[0]:
            kept = (pictures(model, base, device), weights)
    except Exception as error:  # whatever breaks one model, the others are measured
        row = failed(row, error)
    return Measured(replace(row, seconds=time.perf_counter() - clock), *kept)


def unreachable(setting: Setting) -> str:
    """What to say of a method that cannot be had at its GFLOPs."""
    return f"cannot reach {setting.target:.4g} GFLOPs: the least is {setting.gflops:.4g}, at {setting.text}"


def failed_row(base: Base, cell: Cell, setting: Setting, problem: str) -> Row:
    """The row of a cell that was not measured."""
    return failed(_described(base, cell, setting, datetime.now(UTC)), problem)


def _described(base: Base, cell: Cell, setting: Setting, started: datetime) -> Row:
    proposal = Proposal(0, STAGE, cell.level.method, cell.level.label, setting.recipe)
    window, steps = base.config.data.window_for(base.shape), base.config.benchmark.recovery.steps
    return replace(
        described(base, proposal),
        started=started,
        seed=cell.seed,
        setting=setting.text,
        target_gflops=setting.target,
        gflops=setting.gflops,
        gflops_share=setting.gflops / gflops(base.shape, dense(base.shape), window),
        recovery="finetune" if steps else "none",
        recovery_steps=steps,
    )
