"""Recover the accuracy that cutting lost: fine-tuning with the dense model as teacher, or least squares.

An elastic model needs neither: its recipes are recovered before they are cut.
"""

from collections.abc import Callable
from copy import deepcopy

import torch

from raycomp.compress.reconstruct import reconstruct
from raycomp.context.sweep_context import SweepContext
from raycomp.data.datasets import open_split
from raycomp.data.samples import NORMALIZATIONS, Samples
from raycomp.deploy.model import load
from raycomp.evaluate.miou import normalised
from raycomp.files import fetched
from raycomp.losses import Loss, distilled, pixel_loss
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.settings.training import FinetuneConfig, TrainConfig
from raycomp.storage import AnyPath
from raycomp.training_loop import Standing, train

_TRAINING = 2
"""Raise it when the same settings train another model: then none of an older release is read back."""


def recovered(
    context: SweepContext, recipe: Recipe, samples: Samples | None, device: torch.device, folder: AnyPath
) -> Segmenter:
    """Cut a recipe on a device and recover it as configured; the dense recipe is the dense model as it is.

    Args:
        samples: training images for fine-tuning; None opens the data set's own.
        folder: of the sweep; what fine-tuning made is kept there, so that no recipe is trained twice.

    Raises:
        UserError: for a recipe that does not fit the model, or that the elastic model was not trained for.
    """
    model = context.cut(recipe, device)
    if recipe == dense(context.shape):
        return model
    match context.config.recovery.mode:
        case "finetune":
            return _finetuned_once(context, model, samples, device, folder)
        case "reconstruct":
            return reconstructed(context, model, device)
        case _:
            return model


def reconstructed(context: SweepContext, model: Segmenter, device: torch.device) -> Segmenter:
    """A copy of a cut model on a device, refitted on the calibration images."""
    assert context.calibration is not None
    pixels = NORMALIZATIONS[context.shape.normalization]
    images = normalised(torch.from_numpy(context.calibration).to(device), pixels.mean, pixels.std, torch.float32)
    own = deepcopy(model).to(device)
    reconstruct(own, context.placed(context.model, device), context.saliency, images)
    return own


def _finetuned_once(
    context: SweepContext, model: Segmenter, samples: Samples | None, device: torch.device, folder: AnyPath
) -> Segmenter:
    """Fine-tune a model, or read what an earlier stage or an interrupted run of the sweep has made of it."""
    recovery, seed = context.config.recovery, context.config.search.seed
    path = folder / "models" / f"{model.recipe.id}.safetensors"
    facts = {"recovery": f"{recovery.model_dump_json()} seed {seed}, from {context.mark}, training {_TRAINING}"}
    if path.is_file():
        with fetched(path) as local:
            if checkpoints.metadata(local).get("recovery") == facts["recovery"]:
                return load(local)
    settings = FinetuneConfig(steps=recovery.steps, lr=recovery.lr, distill=recovery.distill)
    state = folder / "states" / f"{model.recipe.id}.state"
    made = finetuned(context, model, settings, seed, samples, device, state)
    checkpoints.save(made, path, facts)
    state.unlink(missing_ok=True)
    return made


def finetuned(
    context: SweepContext,
    model: Segmenter,
    settings: FinetuneConfig,
    seed: int,
    samples: Samples | None,
    device: torch.device,
    state: AnyPath | None,
) -> Segmenter:
    """Fine-tune a copy of a cut model; every model gets the same steps, schedule and batches of a seed."""
    config = schedule(context.config.train, settings, seed)
    return trained_on(context, model, config, settings.distill, samples, device, state, lambda _: None)


def retraining(
    context: SweepContext, samples: Samples | None, device: torch.device
) -> Callable[[Segmenter, int], Segmenter] | None:
    """How NViT trains a pruned model after a round, with batches of the round's own; None where it does not."""
    settings = context.config.nvit.train_between
    if not settings.steps:
        return None
    settings = settings.model_copy(update={"lr": settings.lr or context.config.benchmark.recovery.lr})
    return lambda model, round_: finetuned(context, model, settings, round_, samples, device, None).cpu()


def trained_on(
    context: SweepContext,
    model: Segmenter,
    config: TrainConfig,
    distill: float,
    samples: Samples | None,
    device: torch.device,
    state: AnyPath | None,
    report: Callable[[Standing], None],
) -> Segmenter:
    """Train a copy of a cut model, with the dense model as teacher where `distill` is not 0; see `train`."""
    if state is not None:
        state.parent.mkdir(parents=True, exist_ok=True)
    data = context.config.data
    images = samples if samples is not None else open_split(data, data.train_split, config.images or 0)
    own = deepcopy(model).requires_grad_(True)  # the weights that nothing cut are the dense model's own
    own.regularise(config.drop_path, config.decoder_dropout)
    loss: Loss = pixel_loss
    identity = ""
    if distill:
        loss, identity = distilled(context.placed(context.model, device), distill), f" {context.checkpoint} {distill}"
    return train(own, context.shape, images, config, device, report, loss, state, identity, data.scale)


def schedule(config: TrainConfig, settings: FinetuneConfig, seed: int) -> TrainConfig:
    """The dense training's settings for a fine-tuning of a few steps."""
    lr = settings.lr or config.lr
    return config.model_copy(
        update={
            "steps": settings.steps,
            "lr": lr,
            "min_lr": min(config.min_lr, lr),
            "warmup": min(config.warmup, settings.steps // 10),
            "ema": None,
            "seed": seed,
        }
    )
