"""What a sweep would run and what it takes, before it is started: `jobs/pareto_search.py --dry-run`."""

from dataclasses import dataclass

import torch

from raycomp.config import SweepConfig
from raycomp.data.corruptions import TYPES
from raycomp.evaluate.speed import median_seconds
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.search.base import default_device
from raycomp.search.known import BASELINES
from raycomp.search.proposer import CONFIRMED, Proposer
from raycomp.sections import StageConfig

_ROUNDS, _WARM_UP = 3, 1
_TRAINED = 3  # passes that training on an image takes as long as


@dataclass(frozen=True)
class Plan:
    """Hours are of models alone, one window an image, and as if no recipe were faster than the dense model."""

    known: int
    """Recipes that come first."""
    proposed: int
    done: int
    """Trials that are measured already."""
    full: int
    """Evaluations on the full set, at most."""
    passes: int
    """Images through a model that are left to do, one window of each."""
    image_ms: float
    """One pass of the dense model over one image, in batches of the evaluation's size."""
    device: str
    hours: float


def plan(config: SweepConfig, proposer: Proposer) -> Plan:
    """Time the dense model on this device, and count."""
    known = proposer.known_left
    left = max(0, config.search.trials - proposer.trials_done)
    full = 1 + CONFIRMED + len(BASELINES) * len(config.search.known)
    per_trial = stage_images(config.evaluation.search)
    if config.recovery.mode == "finetune":
        per_trial += config.recovery.steps * config.train.batch * _TRAINED
    images = (left + 1) * per_trial + full * stage_images(config.evaluation.full)
    device, batch = default_device(), config.evaluation.batch
    shape, window = proposer.space.shape, proposer.space.image
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
        passes=images,
        image_ms=1e3 * seconds,
        device=str(device),
        hours=images * seconds / 3600,
    )


def stage_images(stage: StageConfig) -> int:
    """Images that a recipe is measured on."""
    return stage.clean + stage.corrupted * len(TYPES) * len(stage.severities)
