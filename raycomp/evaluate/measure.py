# SPDX-License-Identifier: Apache-2.0
"""Measure a model on an evaluation set: clean and corrupted mIoU, effective rank, speed.

Legend: K classes, V variants (the clean images first, then 80 corrupted ones).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from raycomp.data.corruptions import SEVERITIES, TYPES, VARIANTS
from raycomp.data.evalset import CLEAN, EvalSet, Stack
from raycomp.data.samples import NORMALIZATIONS
from raycomp.errors import UserError
from raycomp.evaluate.counts import Counts
from raycomp.evaluate.effective_rank import EffectiveRank, effective_rank
from raycomp.evaluate.graphs import graphed
from raycomp.evaluate.latency import median_seconds
from raycomp.evaluate.miou import Accuracy, class_iou, miou
from raycomp.evaluate.per_image import PerImage
from raycomp.evaluate.sliding import first_window
from raycomp.evaluate.windows import View
from raycomp.models.pixels import Bilinear
from raycomp.models.segmenter import Segmenter
from raycomp.settings.evaluation import EvaluationConfig, StageConfig
from raycomp.settings.model_and_data import DataConfig
from raycomp.shape import ModelShape

_RANK_IMAGES = {"search": 4, "full": 16}  # a probe measures accuracy alone
_LATENCY_RUNS, _WARM_UP = {"search": 3, "full": 15}, {"search": 1, "full": 3}


@dataclass(frozen=True)
class Measurement:
    """Result of a measurement; mIoU and IoU in [0, 1]."""

    clean_miou: float
    class_iou: np.ndarray
    """(K,), NaN for classes that do not occur."""
    corrupted: np.ndarray
    """(16, 5) mIoU of each type and severity; NaN if not measured, or if no pixel was labelled."""
    rank: EffectiveRank | None
    """None for a probe."""
    latency_ms: float | None
    """Median time of one image at batch 1, on CUDA by graph replay; None if not timed."""
    throughput: float
    """Images per second at the configured batch, including pre- and post-processing."""
    images: int
    seconds: float
    tokens: list[list[int]]
    """For adaptive merging: tokens after each block, for every pass on a clean image; otherwise empty."""
    first: Accuracy | None
    """Accuracy on the early-stopping images, if there are any."""
    per_image: PerImage


class Stopped(Exception):  # noqa: N818  not an error
    """Raised when a recipe is stopped early, after the first images."""

    def __init__(self, first: Accuracy, images: int, seconds: float) -> None:
        super().__init__(first, images, seconds)
        self.first, self.images, self.seconds = first, images, seconds


def measure(
    model: Segmenter,
    data: EvalSet,
    stage: str,
    config: EvaluationConfig,
    sizes: DataConfig,
    device: torch.device,
    thresholds: Sequence[Accuracy] = (),
    timed: bool = True,
) -> Measurement:
    """Measure a compressed model on one stage of the evaluation set.

    Args:
        model: in evaluation mode and float32, on any device; it is moved and cast.
        stage: `search`, `full`, or `probe`, which measures accuracy alone, on the early-stopping images.
        thresholds: pairs of clean and corrupted mIoU; the early-stopping images must reach at least one of each pair.
        timed: whether to time one image, unless the stage is `probe`.

    Raises:
        Stopped: if the model is below both values of a threshold.
        UserError: if no pixel of the clean images, or of the corrupted images, is labelled, or a probe has no images.
    """
    started = time.perf_counter()
    dtype = getattr(torch, config.dtype)
    model = model.to(device=device, dtype=dtype)
    shape, window = model.shape, sizes.window_for(model.shape)
    view = View(NORMALIZATIONS[shape.normalization], window, sizes.stride_for(shape), model.decoder.form, dtype)
    field = "early_stopping" if stage == "probe" else stage
    images: StageConfig | None = getattr(config, field)
    if images is None:
        raise UserError("evaluation.early_stopping is not set: a probe measures its images")
    chosen = data.chosen(images)
    stopping = config.early_stopping if stage == "search" else None
    early = chosen[:0] if stopping is None else data.chosen(stopping)
    counts = Counts.of(model, data, chosen, _truth(data, stage, config), view, config.batch)
    first: Accuracy | None = None
    with torch.inference_mode():
        if len(early):
            table = counts.add(early)
            first = Accuracy(miou(table[0]), float(np.nanmean(_by_variant(table, data.variants[early]))))
            if any(first.clean < threshold.clean and first.corrupted < threshold.corrupted for threshold in thresholds):
                raise Stopped(first, len(early), time.perf_counter() - started)
        table = counts.add(np.setdiff1d(chosen, early))
        throughput = len(chosen) / (time.perf_counter() - started)
        rank, latency = None, None
        if stage != "probe":
            indices = chosen[data.variants[chosen] == CLEAN][: _RANK_IMAGES[stage]].tolist()
            windows = torch.cat([first_window(view.normalised(counts.images[i][None]), window) for i in indices])
            rank = effective_rank(model, windows)
            latency = _latency_ms(model, windows[:1], stage) if timed else None
    clean, corrupted = _mious(table, data.variants[chosen], field)
    return Measurement(
        clean_miou=clean,
        class_iou=class_iou(table[0]),
        corrupted=corrupted.reshape(len(TYPES), len(SEVERITIES)),
        rank=rank,
        latency_ms=latency,
        throughput=throughput,
        images=len(chosen),
        seconds=time.perf_counter() - started,
        tokens=counts.tokens,
        first=first,
        per_image=counts.per_image(),
    )


def accuracy(
    run: Callable[[torch.Tensor], torch.Tensor],
    shape: ModelShape,
    data: EvalSet,
    config: EvaluationConfig,
    sizes: DataConfig,
    device: torch.device,
    report: Callable[[int, int], None] = lambda *_: None,
) -> Accuracy:
    """Measure the accuracy of any function from images to logits on the full stage, as `measure` does for a model.

    Args:
        run: maps normalised images (B, 3, height, width) float32 to logits (B, K, height, width), on the device.
        shape: of the dense model, which decides on classes, normalisation and window.
        report: called with the number of measured images and of all images.

    Raises:
        UserError: if no pixel of the clean images, or of the corrupted images, is labelled.
    """
    chosen, pixels = data.chosen(config.full), NORMALIZATIONS[shape.normalization]
    view = View(pixels, sizes.window_for(shape), sizes.stride_for(shape), Bilinear(patch=1), torch.float32)
    counts = Counts(run, shape.classes, device, data, chosen, _truth(data, "full", config), view, config.batch)
    with torch.inference_mode():
        table = counts.add(chosen, report)
    clean, corrupted = _mious(table, data.variants[chosen], "full")
    return Accuracy(clean, float(np.nanmean(corrupted)))


def _truth(data: EvalSet, stage: str, config: EvaluationConfig) -> Stack:
    """Return the labels that a stage compares with."""
    return data.originals if data.originals and stage == "full" and config.at != "resized" else data.labels


def _mious(table: np.ndarray, measured: np.ndarray, field: str) -> tuple[float, np.ndarray]:
    """Return the clean mIoU, and that of every corrupted variant; raise a UserError if one has no labelled pixel."""
    clean, corrupted = miou(table[0]), _by_variant(table, measured)
    if not (np.isfinite(clean) and np.isfinite(corrupted).any()):
        raise UserError(f"evaluation.{field}: no pixel is labelled in its clean images, or in its corrupted images")
    return clean, corrupted


def _latency_ms(model: Segmenter, image: torch.Tensor, stage: str) -> float:
    """Return the median time of one image (1, 3, H, W)."""
    # Adaptive merging cannot be a graph, because its token counts depend on the image.
    run = partial(model if model.recipe.adaptive else graphed(model, image), image)
    return 1e3 * median_seconds({"": run}, image.device, _LATENCY_RUNS[stage], _WARM_UP[stage])[""]


def _by_variant(confusions: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the mIoU of every corrupted variant (80,) from confusions (V, K, K); NaN if not `measured` or labelled."""
    table = np.full(len(VARIANTS), np.nan)
    for variant in np.unique(measured[measured != CLEAN]):
        table[variant] = miou(confusions[1 + variant])
    return table
