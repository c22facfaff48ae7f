# SPDX-License-Identifier: Apache-2.0
"""Compute saliencies of the dense model on calibration images of the training split, and cache them."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from raycomp.compress import saliency as saliencies
from raycomp.config import SweepConfig
from raycomp.data.datasets import open_split
from raycomp.data.evalset import cache_folder
from raycomp.data.resize import at_least, centre
from raycomp.data.samples import IGNORE, NORMALIZATIONS, Sample
from raycomp.devices import prepare_device
from raycomp.errors import UserError
from raycomp.evaluate.sliding import normalised
from raycomp.models.segmenter import Segmenter
from raycomp.settings.section import Criterion
from raycomp.shape import ModelShape

Scorer = Callable[[Segmenter, SweepConfig, Criterion, Path], saliencies.Saliency]
"""Computes saliencies of a dense model; the file holds the state of an interrupted run."""


def cached_scores(
    model: Segmenter,
    config: SweepConfig,
    criterion: Criterion,
    fingerprint: str,
    report: Callable[[str], None],
    scorer: Scorer | None = None,
) -> saliencies.Saliency:
    """Load the saliency of a dense model from the cache, or compute and cache it, by default in this process.

    Args:
        fingerprint: Fingerprints of the weights and images.
        report: Called with a line before the computation.
    """
    name = f"{criterion}-{fingerprint}-{config.nvit.images}x{config.nvit.batch}-{config.nvit.dtype}"
    cache = cache_folder() / f"saliency-{name}.safetensors"
    if cache.is_file():
        return saliencies.load(cache)
    report(f"scoring prunable units on {config.nvit.images} training images (kept in {cache.parent})")
    state = cache.with_suffix(".part")
    if scorer is None:
        scores = score(model, config, default_device(), criterion, state)
    else:
        scores = scorer(model, config, criterion, state)
    saliencies.save(scores, cache)
    return scores


def default_device() -> torch.device:
    """Return the GPU if this process sees one, set up for many shapes, else the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare_device(device)
    return device


def score(
    model: Segmenter,
    config: SweepConfig,
    device: torch.device,
    criterion: Criterion,
    state: Path | None = None,
    crops: tuple[np.ndarray, np.ndarray] | None = None,
) -> saliencies.Saliency:
    """Compute the saliency of a dense or pruned model, by default on `calibration_crops`; see `saliency.compute`."""
    model = model if device.type == "cpu" else deepcopy(model).to(device)
    pixels = NORMALIZATIONS[model.shape.normalization]
    images, labels = map(torch.from_numpy, crops or calibration_crops(model.shape, config))
    batches = (
        (normalised(x.to(device), pixels.mean, pixels.std, torch.float32), y.to(device))
        for x, y in zip(images.split(config.nvit.batch), labels.split(config.nvit.batch), strict=True)
    )
    return saliencies.compute(model, batches, criterion, getattr(torch, config.nvit.dtype), state)


def calibration_crops(shape: ModelShape, config: SweepConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return centre crops (n, H, W, 3) of the calibration images of the training split, and their labels (n, H, W).

    Raises:
        UserError: If no pixel of the crops is labelled.
    """
    count, window = config.nvit.images, config.data.window_for(shape)
    samples = open_split(config.data, config.data.train_split, count)
    crops: list[Sample] = []
    for index in range(min(count, len(samples))):
        image, label = centre(at_least(samples[index], window, config.data.scale), window)
        if (label != IGNORE).any():  # otherwise the mean loss over no pixels, and the saliency, would be NaN
            crops.append((image, label))
    if not crops:
        raise UserError(f"data.train_split {config.data.train_split}: no image has a labelled pixel in its centre crop")
    images, labels = zip(*crops, strict=True)
    return np.stack(images), np.stack(labels)
