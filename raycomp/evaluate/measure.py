# SPDX-License-Identifier: Apache-2.0
"""Measure a model on an evaluation set: clean and corrupted mIoU, effective rank, speed.

Legend: K classes, V variants (the clean images first, then 80 corrupted ones).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from raycomp.data.corruptions import SEVERITIES, TYPES, VARIANTS
from raycomp.data.evalset import CLEAN, EvalSet
from raycomp.data.samples import NORMALIZATIONS
from raycomp.errors import UserError
from raycomp.evaluate.confusions import Confusions
from raycomp.evaluate.effective_rank import EffectiveRank, effective_rank
from raycomp.evaluate.graphs import Replayed, graphed
from raycomp.evaluate.latency import latency_ms
from raycomp.evaluate.miou import Accuracy, class_iou, first_window, miou
from raycomp.evaluate.per_image import PerImage
from raycomp.evaluate.resident import Resident, resident
from raycomp.evaluate.token_counts import recorded
from raycomp.evaluate.windows import View, labelled
from raycomp.models.segmenter import Segmenter
from raycomp.settings.evaluation import EvaluationConfig
from raycomp.settings.model_and_data import DataConfig

_RANK_IMAGES = {"search": 4, "full": 16}
_LATENCY_RUNS = {"search": 5, "full": 15}


@dataclass(frozen=True)
class Measurement:
    """Result of a measurement; mIoU and IoU in [0, 1]."""

    clean_miou: float
    class_iou: np.ndarray
    """(K,), NaN for classes that do not occur."""
    corrupted: np.ndarray
    """(16, 5) mIoU of each type and severity; NaN if not measured, or if no pixel was labelled."""
    rank: EffectiveRank
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
        stage: `search` or `full`.
        thresholds: pairs of clean and corrupted mIoU; the early-stopping images must reach at least one of each pair.
        timed: whether to time one image.

    Raises:
        Stopped: if the model is below both values of a threshold.
        UserError: if no pixel of the clean images, or of the corrupted images, is labelled.
    """
    started = time.perf_counter()
    dtype = getattr(torch, config.dtype)
    model = model.to(device=device, dtype=dtype)
    shape, window = model.shape, sizes.window_for(model.shape)
    view = View(NORMALIZATIONS[shape.normalization], window, sizes.stride_for(shape), model.decoder.form, dtype)
    chosen = data.chosen(config.search if stage == "search" else config.full)
    early = (
        data.chosen(config.early_stopping) if stage == "search" and config.early_stopping is not None else chosen[:0]
    )
    images = _Images.staged(data, chosen, device, at_original_size=stage == "full" and config.at != "resized")
    counts = _Counts(model, images, view, config.batch, device)
    first: Accuracy | None = None
    with torch.inference_mode():
        if len(early):
            first = _accuracy(counts.add(early), data.variants[early])
            if any(first.clean < threshold.clean and first.corrupted < threshold.corrupted for threshold in thresholds):
                raise Stopped(first, len(early), time.perf_counter() - started)
        table = counts.add(np.setdiff1d(chosen, early))
        throughput = len(chosen) / (time.perf_counter() - started)
        indices = chosen[data.variants[chosen] == CLEAN][: _RANK_IMAGES[stage]].tolist()
        probe = torch.cat([first_window(view.normalised(images.images[i][None]), window) for i in indices])
        rank = effective_rank(model, probe)
        latency = _latency_ms(model, probe[:1], stage) if timed else None
    clean, corrupted = miou(table[0]), _by_variant(table, data.variants[chosen])
    if not (np.isfinite(clean) and np.isfinite(corrupted).any()):
        raise UserError(f"evaluation.{stage}: no pixel is labelled in its clean images, or in its corrupted images")
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


def _latency_ms(model: Segmenter, image: Tensor, stage: str) -> float:
    """Time one image; adaptive merging cannot be a graph, because its token counts depend on the image."""
    return latency_ms(model if model.recipe.adaptive else graphed(model, image), image, _LATENCY_RUNS[stage])


def _accuracy(confusions: np.ndarray, measured: np.ndarray) -> Accuracy:
    return Accuracy(miou(confusions[0]), float(np.nanmean(_by_variant(confusions, measured))))


def _by_variant(confusions: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the mIoU of every corrupted variant (80,) from confusions (V, K, K); NaN if not `measured` or labelled."""
    table = np.full(len(VARIANTS), np.nan)
    for variant in np.unique(measured):
        if variant != CLEAN:
            table[variant] = miou(confusions[1 + variant])
    return table


@dataclass(frozen=True)
class _Images:
    """Evaluation images and labels on the model's device."""

    data: EvalSet
    images: Resident
    truth: Resident

    @classmethod
    def staged(cls, data: EvalSet, chosen: np.ndarray, device: torch.device, at_original_size: bool) -> "_Images":
        """Copy images and labels to a device, the labels at the original size if requested and different."""
        stack = (data.originals if at_original_size else None) or data.labels
        truth = resident(stack, device, data.label_of[chosen].tolist())
        return cls(data, resident(data.images, device, chosen.tolist()), truth)

    def by_size(self, part: np.ndarray) -> list[int]:
        """Return the images of a part, grouped by image size and label size."""
        groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = defaultdict(list)
        for index in part.tolist():
            groups[self.images.shape(index), self._truth_shape(index)].append(index)
        return [index for group in groups.values() for index in group]

    def count(
        self, part: Sequence[int], run: Callable[[Tensor], Tensor], view: View, batch: int, into: Confusions
    ) -> None:
        """Label images, and add their true and predicted classes; see `labelled`."""
        variants = torch.from_numpy(self.data.variants[part] + 1).to(into.device)
        images = [partial(self.images.__getitem__, index) for index in part]
        sizes = [(self.images.shape(index)[:2], self._truth_shape(index)[:2]) for index in part]
        for some in labelled(run, images, sizes, view, batch):
            labels = [self.truth[int(self.data.label_of[index])][..., 0] for index in part[some.images]]
            into.add(torch.stack(labels), some.labels, variants[some.images])

    def tokens(self, part: Sequence[int], passes: list[list[int]], view: View) -> list[list[int]]:
        """Select the passes on clean images, given one pass per window of a part."""
        indices = [index for index in part for _ in view.places(self.images.shape(index)[:2])]
        return [tokens for index, tokens in zip(indices, passes, strict=True) if self.data.variants[index] == CLEAN]

    def _truth_shape(self, index: int) -> tuple[int, int, int]:
        return self.truth.shape(int(self.data.label_of[index]))


class _Counts:
    """Counts of a model's predictions, accumulated part by part."""

    def __init__(self, model: Segmenter, images: _Images, view: View, batch: int, device: torch.device) -> None:
        self._model, self._images, self._view = model, images, view
        adaptive = model.recipe.adaptive
        self._batch = 1 if adaptive else batch  # in a batch, the least mergeable window would limit all
        self._run = model.patch_scores if adaptive else Replayed(model.patch_scores)
        self._confusions = Confusions(1 + len(VARIANTS), model.shape.classes, device)
        self._order: list[int] = []
        self.tokens: list[list[int]] = []
        """For adaptive merging: tokens after each block, for every pass on a clean image."""

    def add(self, part: np.ndarray) -> np.ndarray:
        """Label more images, and return the confusions (V, K, K) of all images so far."""
        order = self._images.by_size(part)
        self._order += order
        with recorded(self._model) if self._model.recipe.adaptive else nullcontext() as passes:
            self._images.count(order, self._run, self._view, self._batch, self._confusions)
        if passes is not None:
            self.tokens += self._images.tokens(order, passes, self._view)
        return self._confusions.table()

    def per_image(self) -> PerImage:
        """Return hits and unions of each image by class."""
        hits, union = self._confusions.by_class()
        data = self._images.data
        return PerImage(hits, union, data.variants[self._order], data.label_of[self._order])
