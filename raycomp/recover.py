# SPDX-License-Identifier: Apache-2.0
"""Recover the accuracy lost by cutting: fine-tune with the dense model as teacher, or refit by least squares.

An elastic model needs neither, as it is trained for its recipes before they are cut. NViT fine-tunes between rounds.
All of this is in float32; an INT8 recipe is quantised last.
"""

from collections.abc import Callable
from copy import deepcopy

import torch

from raycomp.compress import quantised
from raycomp.compress.nvit import Pruned, nvit
from raycomp.compress.reconstruct import reconstruct
from raycomp.context.calibration import score
from raycomp.context.sweep_context import SweepContext
from raycomp.data.datasets import open_split
from raycomp.data.samples import Samples
from raycomp.deploy.model import load
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.files import fetched
from raycomp.losses import Loss, distilled, pixel_loss
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.settings.training import FinetuneConfig, TrainConfig
from raycomp.storage import AnyPath
from raycomp.training_loop import TrainingProgress, train

_TRAINING = 2
"""Version of the training. Increase it when the same settings give another model, so that older models are not used."""


FEW_IMAGES = 16
"""Calibration images of a search trial in INT8: with all of them, it would take half as long again."""


def recovered(
    context: SweepContext,
    recipe: Recipe,
    samples: Samples | None,
    device: torch.device,
    folder: AnyPath,
    calibrated_on: int | None = None,
) -> Segmenter:
    """Cut a recipe on a device, recover it as configured, and quantise it last if it is an INT8 recipe.

    The dense recipe gives the dense model unchanged.

    Args:
        samples: Training images for fine-tuning; None opens the training split.
        folder: Folder of the sweep; it keeps fine-tuned models, so that no recipe is trained twice.
        calibrated_on: Number of images that an INT8 recipe is calibrated on; by default all of the context.

    Raises:
        UserError: If the recipe does not fit the model, or the elastic model was not trained for it.
    """
    model = _in_float32(context, recipe.at("fp32"), samples, device, folder)
    return in_precision(context, model, recipe, device, calibrated_on)


def in_precision(
    context: SweepContext, model: Segmenter, recipe: Recipe, device: torch.device, calibrated_on: int | None = None
) -> Segmenter:
    """Return a recovered model in the precision of its recipe: unchanged, or a quantised copy; see `recovered`."""
    if recipe.precision == "fp32":
        return model
    assert context.calibration is not None
    images = context.normalised(context.calibration[:calibrated_on], device)
    made = quantised.quantised(model.to(device).eval(), images)
    made.recipe = recipe
    return made


def _in_float32(
    context: SweepContext, recipe: Recipe, samples: Samples | None, device: torch.device, folder: AnyPath
) -> Segmenter:
    model = context.cut(recipe, device)
    if recipe == dense(context.shape):
        return model
    match context.config.recovery.mode:
        case "finetune":
            return _finetuned_once(context, model, samples, device, folder)
        case "reconstruct":
            assert context.calibration is not None
            refitted, images = deepcopy(model).to(device), context.normalised(context.calibration, device)
            reconstruct(refitted, context.placed(context.model, device), context.saliency, images)
            return refitted
        case _:
            return model


def _finetuned_once(
    context: SweepContext, model: Segmenter, samples: Samples | None, device: torch.device, folder: AnyPath
) -> Segmenter:
    """Fine-tune a model, or load it if an earlier stage or run of the sweep fine-tuned it."""
    recovery, seed = context.config.recovery, context.config.search.seed
    path = folder / "models" / f"{model.recipe.id}.safetensors"
    identity = f"{recovery.model_dump_json()} seed {seed}, from {context.fingerprint}, training {_TRAINING}"
    if path.is_file():
        with fetched(path) as local:
            if checkpoints.metadata(local).get("recovery") == identity:
                return load(local)
    settings = FinetuneConfig(steps=recovery.steps, lr=recovery.lr, distill=recovery.distill)
    state = folder / "states" / f"{model.recipe.id}.state"
    trained = finetuned(context, model, settings, seed, samples, device, state)
    checkpoints.save(trained, path, {"recovery": identity})
    state.unlink(missing_ok=True)
    return trained


def finetuned(
    context: SweepContext,
    model: Segmenter,
    settings: FinetuneConfig,
    seed: int,
    samples: Samples | None,
    device: torch.device,
    state: AnyPath | None,
) -> Segmenter:
    """Fine-tune a copy of a cut model; for a given seed, all models get the same steps, schedule and batches."""
    config, lr = context.config.train, settings.lr or context.config.train.lr
    short = {
        "steps": settings.steps,
        "lr": lr,
        "min_lr": min(config.min_lr, lr),
        "warmup": min(config.warmup, settings.steps // 10),
        "ema": None,
        "seed": seed,
    }
    config = config.model_copy(update=short)
    return trained_on(context, model, config, settings.distill, samples, device, state, lambda _: None)


def pruned_by_nvit(
    context: SweepContext,
    cost: Callable[[Recipe], float],
    target: float,
    device: torch.device,
    table: LatencyTable | None,
    samples: Samples | None,
) -> Pruned:
    """Prune the dense model as `nvit` configures, until it costs at most `target`.

    Args:
        table: Latency table for NViT's latency term, if enabled.
        samples: Training images for the training between rounds, if enabled; None opens the training split.
    """
    config = context.config.nvit
    between = config.train_between
    between = between.model_copy(update={"lr": between.lr or context.config.benchmark.recovery.lr})

    def retrained(model: Segmenter, number: int) -> Segmenter:  # each round has other batches
        return finetuned(context, model, between, number, samples, device, None).cpu()

    return nvit(
        context.model,
        context.saliency,
        lambda model: score(model, context.config, device, config.criterion),
        target,
        cost,
        config,
        None if table is None else table.latency_ms,
        retrained if between.steps else None,
    )


def trained_on(
    context: SweepContext,
    model: Segmenter,
    config: TrainConfig,
    distill: float,
    samples: Samples | None,
    device: torch.device,
    state: AnyPath | None,
    report: Callable[[TrainingProgress], None],
) -> Segmenter:
    """Train a copy of a cut model, with the dense model as teacher if `distill` is not 0; see `train`."""
    if state is not None:
        state.parent.mkdir(parents=True, exist_ok=True)
    data = context.config.data
    images = samples if samples is not None else open_split(data, data.train_split, config.images or 0)
    student = deepcopy(model).requires_grad_(True)  # uncut weights are shared with the dense model
    student.regularise(config.drop_path, config.decoder_dropout)
    loss: Loss = pixel_loss
    identity = ""
    if distill:
        loss, identity = distilled(context.placed(context.model, device), distill), f" {context.checkpoint} {distill}"
    return train(student, context.shape, images, config, device, report, loss, state, identity, data.scale)
