"""Saliency of the dense model on calibration images of the training split, computed once and cached."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raycomp.compress import saliency as saliencies
from raycomp.config import SweepConfig
from raycomp.data.datasets import open_split
from raycomp.data.evalset import cache_folder
from raycomp.data.resize import at_least, centre
from raycomp.data.samples import IGNORE, NORMALIZATIONS, Sample
from raycomp.devices import prepare_device
from raycomp.errors import UserError
from raycomp.evaluate.miou import normalised
from raycomp.models.segmenter import Segmenter
from raycomp.settings.section import Criterion
from raycomp.shape import ModelShape

Scorer = Callable[[Segmenter, SweepConfig, Criterion, Path], saliencies.Saliency]


"""Computes saliencies of a dense model; the file is for what an interrupted run leaves."""


def cached_scores(
    model: Segmenter,
    config: SweepConfig,
    criterion: Criterion,
    of: str,
    report: Callable[[str], None],
    scorer: Scorer | None = None,
) -> saliencies.Saliency:
    """Saliency of a dense model from the cache, or computed and put there.

    Args:
        of: fingerprints of the weights and images.
        report: called with a line where it is computed.
        scorer: what computes it; by default this process.
    """
    name = f"{criterion}-{of}-{config.nvit.images}x{config.nvit.batch}-{config.nvit.dtype}"
    cache = cache_folder() / f"saliency-{name}.safetensors"
    if cache.is_file():
        return saliencies.load(cache)
    report(f"scoring prunable units on {config.nvit.images} training images (kept in {cache.parent})")
    scores = (scorer or _scored_here)(model, config, criterion, cache.with_suffix(".part"))
    saliencies.save(scores, cache)
    return scores


def _scored_here(model: Segmenter, config: SweepConfig, criterion: Criterion, state: Path) -> saliencies.Saliency:
    return score(model, config, default_device(), criterion, state)


def default_device() -> torch.device:
    """The GPU where this process sees one, set up for many shapes, else the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare_device(device)
    return device


def score(
    model: Segmenter, config: SweepConfig, device: torch.device, criterion: Criterion, state: Path | None = None
) -> saliencies.Saliency:
    """Saliency of a model, dense or pruned, on centre crops of the training split; see `saliency.compute`."""
    return score_on(calibration_crops(model.shape, config), model, config, device, criterion, state)


def score_on(
    crops: tuple[np.ndarray, np.ndarray],
    model: Segmenter,
    config: SweepConfig,
    device: torch.device,
    criterion: Criterion,
    state: Path | None = None,
) -> saliencies.Saliency:
    """The same on crops (n, H, W, 3) and labels (n, H, W) that `calibration_crops` gave."""
    model = model if device.type == "cpu" else deepcopy(model).to(device)
    batches = _calibration(crops, model.shape, config, device)
    return saliencies.compute(model, batches, criterion, getattr(torch, config.nvit.dtype), state)


def _calibration(
    crops: tuple[np.ndarray, np.ndarray], shape: ModelShape, config: SweepConfig, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of crops, normalised."""
    batch, pixels = config.nvit.batch, NORMALIZATIONS[shape.normalization]
    images, labels = (torch.from_numpy(part) for part in crops)
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        yield normalised(x.to(device), pixels.mean, pixels.std, torch.float32), y.to(device)


def calibration_crops(shape: ModelShape, config: SweepConfig) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the calibration images of the training split, and their labels."""
    count, window = config.nvit.images, config.data.window_for(shape)
    samples = open_split(config.data, config.data.train_split, count)
    found: list[Sample] = []
    for index in range(min(count, len(samples))):
        image, label = centre(at_least(samples[index], window, config.data.scale), window)
        if (label != IGNORE).any():  # else the loss would be a mean over nothing, and saliency NaN
            found.append((image, label))
    if not found:
        raise UserError(f"data.train_split {config.data.train_split}: no pixel in the middle of an image is labelled")
    images, labels = zip(*found, strict=True)
    return np.stack(images), np.stack(labels)
