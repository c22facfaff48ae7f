"""What a sweep would run and what it takes, before it is started: `jobs/pareto_search.py --dry-run`."""

import math
from dataclasses import dataclass

import torch

from raycomp.config import SweepConfig
from raycomp.data.corruptions import TYPES
from raycomp.data.evalset import open_checked
from raycomp.data.folders import FolderSamples
from raycomp.data.labelled import absent_classes
from raycomp.data.samples import Samples
from raycomp.evaluate.miou import anchors
from raycomp.evaluate.speed import median_seconds
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.search.base import default_device
from raycomp.search.confirmed import CONFIRMED
from raycomp.search.known import BASELINES
from raycomp.search.proposer import Proposer
from raycomp.sections import DataConfig, StageConfig
from raycomp.shape import ModelShape, enlarged_to

_ROUNDS, _WARM_UP = 3, 1
_TRAINED = 3  # passes that training on an image takes as long as


@dataclass(frozen=True)
class Plan:
    """Hours are of models alone, on one device, and as if no recipe were faster than the dense model."""

    known: int
    """Recipes that come first."""
    proposed: int
    done: int
    """Trials that are measured already."""
    full: int
    """Evaluations on the full set, at most."""
    images: int
    """Images to be measured on, each variant by itself."""
    windows: int
    """Passes that an image takes: windows of the split's first one."""
    trained: int
    """Passes of training, a step forward and backward counted as three."""
    pass_ms: float
    """One pass of the dense model over one window, in batches of the evaluation's size."""
    device: str
    hours: float
    warning: str
    """Of classes that no label has; empty for a data set that makes its own."""


def plan(config: SweepConfig, proposer: Proposer) -> Plan:
    """Time the dense model on this device, and count.

    Raises:
        UserError: for data that are not there, too few, or without labels.
    """
    known = proposer.known_left
    left = max(0, config.search.trials - proposer.trials_done)
    full = 1 + CONFIRMED + len(BASELINES) * len(config.search.known)
    images = (left + 1) * stage_images(config.evaluation.search) + full * stage_images(config.evaluation.full)
    trains = config.recovery.mode == "finetune"
    trained = (left + 1) * config.recovery.steps * config.train.batch * _TRAINED if trains else 0
    device, batch = default_device(), config.evaluation.batch
    shape, window = proposer.space.shape, proposer.space.image
    samples = open_checked(config.data, config.evaluation)
    windows = _windows(samples, config.data, shape)
    dtype = getattr(torch, config.evaluation.dtype)
    model = Segmenter(shape, dense(shape)).eval().to(device, dtype)
    inputs = torch.randn(batch, 3, *window, device=device, dtype=dtype)
    with torch.inference_mode():
        seconds = median_seconds({"": lambda: model(inputs)}, device, _ROUNDS, _WARM_UP)[""] / batch
    return Plan(
        known=min(known, left),
        proposed=max(0, left - known),
        done=proposer.trials_done,
        full=full,
        images=images,
        windows=windows,
        trained=trained,
        pass_ms=1e3 * seconds,
        device=str(device),
        hours=(images * windows + trained) * seconds / 3600,
        warning=_warning(samples, config),
    )


def _warning(samples: Samples, config: SweepConfig) -> str:
    """What the labels of the evaluation set, which are read for it, lack."""
    if not isinstance(samples, FolderSamples):
        return ""
    labels = (samples.label(index) for index in range(config.evaluation.full.clean))
    return absent_classes(labels, samples.classes, config.data.eval_split)


def _windows(samples: Samples, data: DataConfig, shape: ModelShape) -> int:
    _, label = samples[0]
    window, stride = data.window_for(shape), data.stride_for(shape)
    sides = zip(enlarged_to(data.scale.of((label.shape[0], label.shape[1])), window), window, strict=True)
    return math.prod(len(anchors(side, length, stride)) for side, length in sides)


def stage_images(stage: StageConfig) -> int:
    """Images that a recipe is measured on."""
    return stage.clean + stage.corrupted * len(TYPES) * len(stage.severities)
