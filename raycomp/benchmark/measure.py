"""One cell: compress, recover, measure, and keep what the pictures need. Without Ray."""

import time
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path

import torch

from raycomp.benchmark.cells import STAGE, Cell
from raycomp.benchmark.pictures import keep_pictures
from raycomp.benchmark.settings import Setting
from raycomp.compress.apply import compress
from raycomp.data.open import open_split
from raycomp.data.samples import Samples
from raycomp.errors import UserError
from raycomp.evaluate.measure import measure
from raycomp.models.segmenter import Segmenter
from raycomp.results.row import Row
from raycomp.search.base import Base
from raycomp.search.proposal import Proposal
from raycomp.search.trial import described, measured
from raycomp.train import train


def measure_cell(
    base: Base,
    samples: Samples | None,
    cell: Cell,
    setting: Setting,
    folder: Path,
    device: torch.device,
    commit: str,
) -> Row:
    """Measure a cell on the full evaluation set. What fails gives a failed row, not an exception.

    Args:
        samples: training images of the recovery; None opens the data set's own.
        folder: of the benchmark: pictures, and the state of a recovery that is under way.
    """
    started, clock, config = datetime.now(UTC), time.perf_counter(), base.config
    row = _described(base, cell, setting) | {"started": started, "git_commit": commit, "device": str(device)}
    try:
        model = built(base, setting)
        row |= {"params": sum(p.numel() for p in model.parameters()), "seconds_build": time.perf_counter() - clock}
        if config.benchmark.recovery.steps:
            model = recover(base, model, samples, cell, device, folder / "states" / f"{cell.level.slug}-{cell.seed}.pt")
        row["seconds_recover"] = time.perf_counter() - clock - row["seconds_build"]
        result = measure(model, base.evalset, "full", config.evaluation, config.data, device)
        row |= measured(base, setting.recipe, result)
        row |= {"seconds_measure": result.seconds, "status": "complete", "error": ""}
        if cell.seed == config.benchmark.seeds[0]:
            keep_pictures(model, base, device, folder / "pictures" / f"{cell.level.slug}.npz")
    except (RuntimeError, MemoryError, ValueError, UserError) as error:
        row |= {"status": "failed", "error": f"{type(error).__name__}: {error}"[:2000]}
    row["seconds"] = time.perf_counter() - clock
    return row


def built(base: Base, setting: Setting) -> Segmenter:
    """The compressed model of a setting, before recovery."""
    return compress(base.model, setting.recipe, setting.scores or base.saliency, base.policy)


def recover(
    base: Base, model: Segmenter, samples: Samples | None, cell: Cell, device: torch.device, state: Path
) -> Segmenter:
    """Fine-tune a compressed model; every method gets the same steps, schedule and batches of a seed."""
    wanted, config = base.config.benchmark.recovery, base.config
    settings = config.train.model_copy(
        update={
            "steps": wanted.steps,
            "lr": wanted.lr or config.train.lr,
            "min_lr": min(config.train.min_lr, wanted.lr or config.train.lr),
            "warmup": min(config.train.warmup, wanted.steps // 10),
            "ema": None,
            "seed": cell.seed,
        }
    )
    state.parent.mkdir(parents=True, exist_ok=True)
    images = samples if samples is not None else open_split(config.data, config.data.train_split, settings.images or 0)
    own = deepcopy(model).requires_grad_(True)  # the weights that nothing cut are the dense model's own
    return train(own, base.shape, images, settings, device, lambda _: None, state=state)


def unreachable(setting: Setting) -> str:
    """What to say of a method that cannot be had at its GFLOPs."""
    return f"cannot reach {setting.target:.4g} GFLOPs: the least is {setting.gflops:.4g}, at {setting.text}"


def failed_row(base: Base, cell: Cell, setting: Setting, problem: str) -> Row:
    """The row of a cell that was not measured."""
    return _described(base, cell, setting) | {"status": "failed", "error": problem, "started": datetime.now(UTC)}


def _described(base: Base, cell: Cell, setting: Setting) -> Row:
    proposal = Proposal(0, STAGE, cell.level.method, cell.level.label, setting.recipe)
    return described(base, proposal) | {
        "seed": cell.seed,
        "setting": setting.text,
        "target_gflops": setting.target,
        "recovery_steps": base.config.benchmark.recovery.steps,
    }
