"""One trial: compress, measure, write a row. Without Ray; `raycomp.search.sweep` runs it in actors."""

import json
import platform
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from raycomp.config import SweepConfig
from raycomp.data.samples import Samples
from raycomp.devices import device_name, free, is_out_of_memory, responds
from raycomp.errors import UserError, logger
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.evaluate.measure import Measurement, Stopped, measure
from raycomp.evaluate.miou import Accuracy
from raycomp.evaluate.robustness import summary
from raycomp.flops import Profile, gflops, profile
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.recover import recovered
from raycomp.results.row import Row, widths
from raycomp.search.base import Base
from raycomp.search.limit import time_limit
from raycomp.search.proposal import Proposal
from raycomp.shape import ModelShape, Size
from raycomp.storage import AnyPath

_LIBRARIES = ("raycomp", "torch", "timm", "numpy", "ray", "optuna", "imagecorruptions", "scikit-image", "opencv-python")


class DeviceLost(Exception):  # noqa: N818  not the recipe's error
    """The device is full, or refuses to compute: the process must end, and another one may measure the recipe."""


def run_trial(
    base: Base, samples: Samples | None, proposal: Proposal, folder: AnyPath, device: torch.device, commit: str
) -> Row:
    """Measure a proposal. A recipe that cannot be built or measured gives a failed row, not an exception.

    Args:
        samples: training images of the recovery; None opens the data set's own.
        folder: of the sweep, for models that the recovery trains.

    Raises:
        DeviceLost: for a card without memory for the recovery, or for a batch of one; and where a card does not
            compute any more.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    row = described(base, proposal) | {"started": started, "git_commit": commit, "device": device_name(device)}
    full = _attempt(base, samples, proposal, folder, device, row)
    # From here on neither a traceback nor the model holds memory of the card.
    if row["status"] == "failed" and (full or (device.type == "cuda" and not responds(device))):
        raise DeviceLost(row["error"])
    row["seconds"] = time.perf_counter() - clock
    return row


def _attempt(
    base: Base, samples: Samples | None, proposal: Proposal, folder: AnyPath, device: torch.device, row: Row
) -> bool:
    """Fill in a row with what is measured, or with what went wrong. Returns whether the card was full."""
    clock = time.perf_counter()
    try:
        with time_limit(base.config.search.trial_seconds):
            model = recovered(base, proposal.recipe, samples, device, folder)
            row["seconds_build"] = time.perf_counter() - clock
            row["params"] = sum(p.numel() for p in model.parameters())
            result = _measured_in_batches(base, model, proposal, device, row)
        row |= measured(base, proposal.recipe, result, per_image=proposal.stage != "search")
        row |= {"seconds_measure": result.seconds, "status": "complete", "error": ""}
    except Stopped as stopped:
        row |= _first(stopped.first) | {"images": stopped.images, "seconds_measure": stopped.seconds}
        row |= {"status": "stopped", "error": ""}
    except (RuntimeError, MemoryError, ValueError, TimeoutError, UserError) as error:
        logger.debug("trial %s", proposal.recipe.id, exc_info=True)
        row |= {"status": "failed", "error": f"{type(error).__name__}: {error}"[:2000]}
        return is_out_of_memory(error)
    return False


def _measured_in_batches(
    base: Base, model: Segmenter, proposal: Proposal, device: torch.device, row: Row
) -> Measurement:
    """Measure in batches of the configured size, halved until the card has room for one; `row` is told which.

    Accuracy does not depend on it; throughput does.
    """
    settings, data = base.config.evaluation, base.config.data
    batch = 1 if proposal.recipe.adaptive else settings.batch
    while True:
        row["batch"] = batch
        own = settings.model_copy(update={"batch": batch})
        try:
            return measure(
                model, base.evalset, proposal.stage, own, data, device, proposal.bars, not shares_card(base.config)
            )
        except RuntimeError as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
        free(device)  # after the block: until then the traceback holds the tensors
        batch //= 2


def shares_card(config: SweepConfig) -> bool:
    """Whether trials run side by side on a card, so that the latency of one is of all."""
    return 0 < (config.search.gpus_per_trial or 0) < 1


def described(base: Base, proposal: Proposal) -> Row:
    """The part of a row that is known before anything is measured."""
    recipe, shape, config = proposal.recipe, base.shape, base.config
    window = config.data.window_for(shape)
    return {
        "sweep": config.name,
        "number": proposal.number,
        "stage": proposal.stage,
        "origin": proposal.origin,
        "label": proposal.label,
        "recipe_id": recipe.id,
        "recipe_json": recipe.canonical_json(),
        "family": recipe.family(shape),
        **widths(recipe),
        **({} if recipe.adaptive else costs(shape, window, [profile(shape, recipe, window)])),
        **({} if base.latency is None else _predicted(base.latency, recipe)),
        "dtype": config.evaluation.dtype,
        "batch": config.evaluation.batch,
        "threads": torch.get_num_threads(),
        "seed": config.search.seed,
        "checkpoint": base.mark,
        "recovery": config.recovery.mode,
        "recovery_steps": config.recovery.steps,
        "dataset": config.data.dataset,
        "evalset": base.evalset.fingerprint,
        "versions": _versions(),
    }


def costs(shape: ModelShape, window: Size, passes: Sequence[Profile]) -> Row:
    """What a recipe costs as columns: the mean of passes on several images, for adaptive merging."""

    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values)))

    total = mean(cost.gflops for cost in passes)
    return {
        "tokens": [round(mean(counts)) for counts in zip(*(cost.tokens for cost in passes), strict=True)],
        "gflops": total,
        "gflops_share": total / gflops(shape, dense(shape), window),
        "gflops_encoder": mean(cost.encoder for cost in passes),
        "gflops_blocks": [mean(block) for block in zip(*(cost.blocks for cost in passes), strict=True)],
    }


def _predicted(latency: LatencyTable, recipe: Recipe) -> Row:
    """Time by the table as columns."""
    predicted = latency.latency_ms(recipe)
    return {"predicted_ms": predicted, "predicted_share": predicted / latency.latency_ms(dense(latency.shape))}


def git_commit() -> str:
    """Commit of the checkout this file runs from, read without starting git; empty outside of one."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        return (git / head.removeprefix("ref: ")).read_text().strip() if head.startswith("ref: ") else head
    except OSError:
        return ""


def measured(base: Base, recipe: Recipe, result: Measurement, per_image: bool = True) -> Row:
    """A measurement as columns; what each image adds is much for every trial of a search."""
    robust = summary(result.corrupted, result.clean_miou)
    window = base.config.data.window_for(base.shape)
    passes = [profile(base.shape, recipe, window, tokens) for tokens in result.tokens]
    return {
        **(costs(base.shape, window, passes) if passes else {}),
        **({} if result.first is None else _first(result.first)),
        "clean_miou": result.clean_miou,
        "corrupted_miou": robust.mpc,
        "rpc": robust.rpc,
        "corrupted_by_type": _floats(robust.per_type),
        "corrupted_by_severity": _floats(robust.per_severity),
        "corrupted_by_variant": _floats(result.corrupted.reshape(-1)),
        "class_iou": _floats(result.class_iou),
        "classes": list(base.evalset.classes),
        "per_image": result.per_image.packed() if per_image else None,
        "effective_rank": result.rank.mean,
        "effective_rank_std": result.rank.std,
        "latency_ms": result.latency_ms,
        "throughput": result.throughput,
        "images": result.images,
    }


def _first(accuracy: Accuracy) -> Row:
    return {"first_clean_miou": accuracy.clean, "first_corrupted_miou": accuracy.corrupted}


def _floats(values: np.ndarray) -> list[float]:
    return [float(v) for v in values]


@cache
def _versions() -> str:
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return json.dumps(found)
