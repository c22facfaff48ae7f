# SPDX-License-Identifier: Apache-2.0
"""Compute saliencies of the dense model in a worker, so that the driver holds no GPU memory."""

from pathlib import Path

import numpy as np
import torch

from raycomp.cluster.connection import gpus_per_trial, remote, result
from raycomp.compress.saliency import Saliency
from raycomp.config import SweepConfig
from raycomp.context.calibration import calibration_crops, score
from raycomp.context.sweep_context import over
from raycomp.data.evalset import cache_folder
from raycomp.models.segmenter import Segmenter
from raycomp.settings.section import Criterion
from raycomp.shape import ModelShape


def saliency_by_worker(model: Segmenter, config: SweepConfig, criterion: Criterion, state: Path) -> Saliency:
    """Compute saliencies (a `Scorer`) in a worker if trials use GPUs, else in the driver, which has all CPU threads.

    The driver sends the images, so workers need no files. The state of an interrupted run is in the cache folder of
    the worker's machine.

    Raises:
        UserError: As `calibration_crops`, and if Ray assigns a GPU that torch does not see.
    """
    crops = calibration_crops(model.shape, config)
    if not gpus_per_trial(config):
        return score(model, config, torch.device("cpu"), criterion, state, crops)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    task = remote(_score, config, retries=2)
    scores: dict[str, np.ndarray] = result(task.remote(weights, model.shape, crops, config, criterion, state.name))
    return {name: torch.tensor(values) for name, values in scores.items()}


def _score(
    weights: dict[str, np.ndarray],
    shape: ModelShape,
    crops: tuple[np.ndarray, np.ndarray],
    config: SweepConfig,
    criterion: Criterion,
    state: str,
    device: torch.device,
) -> dict[str, np.ndarray]:
    scores = score(over(weights, shape), config, device, criterion, cache_folder() / state, crops)
    return {name: values.numpy() for name, values in scores.items()}
