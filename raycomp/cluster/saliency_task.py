# SPDX-License-Identifier: Apache-2.0
"""Compute saliencies of the dense model in a worker, so that the driver holds no GPU memory."""

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
    """Compute saliencies as a `Scorer`, on a GPU if trials use one; the task's process then ends and frees its memory.

    The driver sends the images, so workers need no files. The state of an interrupted run is in the cache folder of
    the worker's machine. Without GPUs the driver computes, as it has torch and all threads.

    Raises:
        UserError: As `calibration_crops`, and if Ray assigns a GPU that torch does not see.
    """
    crops = calibration_crops(model.shape, config)
    if not gpus_per_trial(config):
        return score_on(crops, model, config, torch.device("cpu"), criterion, state)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    task = remote(_score, config, retries=2)
    scores: dict[str, np.ndarray] = result(task.remote(weights, model.shape, crops, config, criterion, state.name))
    return {name: torch.tensor(score) for name, score in scores.items()}


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
