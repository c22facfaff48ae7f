"""Saliencies of a sweep's dense model, computed by a worker, so that the driver holds no memory of a card."""

from pathlib import Path

import numpy as np
import torch

from raycomp.cluster.connection import gpus_per_trial, prepare_worker, remote, result
from raycomp.compress.saliency import Saliency
from raycomp.config import SweepConfig
from raycomp.context.calibration import calibration_crops, score_on
from raycomp.context.sweep_context import over
from raycomp.data.evalset import cache_folder
from raycomp.models.segmenter import Segmenter
from raycomp.settings.section import Criterion
from raycomp.shape import ModelShape


def saliency_by_worker(model: Segmenter, config: SweepConfig, criterion: Criterion, state: Path) -> Saliency:
    """A `Scorer` that uses a GPU where trials do, by a task that ends its process, and with it what CUDA holds.

    The images come from the driver, so that workers need no files. What an interrupted run leaves is in the cache
    folder of the worker's machine. Without GPUs the driver computes: it has torch and the threads, and holds no card.

    Raises:
        UserError: as `calibration_crops` does, and for a GPU that torch does not see.
    """
    crops = calibration_crops(model.shape, config)
    if not gpus_per_trial(config):
        return score_on(crops, model, config, torch.device("cpu"), criterion, state)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    task = remote(_score, config, retries=2)
    found: dict[str, np.ndarray] = result(task.remote(weights, model.shape, crops, config, criterion, state.name))
    return {name: torch.tensor(score) for name, score in found.items()}


def _score(
    weights: dict[str, np.ndarray],
    shape: ModelShape,
    crops: tuple[np.ndarray, np.ndarray],
    config: SweepConfig,
    criterion: Criterion,
    state: str,
) -> dict[str, np.ndarray]:
    device = prepare_worker()
    scores = score_on(crops, over(weights, shape), config, device, criterion, cache_folder() / state)
    return {name: score.numpy() for name, score in scores.items()}
