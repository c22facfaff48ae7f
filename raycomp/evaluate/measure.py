"""Measure a model on an evaluation set: clean and corrupted mIoU, effective rank, speed.

Legend: B batch, K classes, V variants (the clean images first, then 80 corrupted ones).
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raycomp.data.corruptions import SEVERITIES, TYPES, VARIANTS
from raycomp.data.evalset import CLEAN, EvalSet, Stack
from raycomp.data.samples import NORMALIZATIONS
from raycomp.errors import UserError
from raycomp.evaluate.accuracy import Accuracy
from raycomp.evaluate.effective_rank import EffectiveRank, effective_rank
from raycomp.evaluate.miou import class_iou, first_window, labels_at, miou, normalised, sliding_logits
from raycomp.evaluate.per_image import PerImage
from raycomp.evaluate.speed import latency_ms
from raycomp.evaluate.tokens import recorded
from raycomp.models.segmenter import Segmenter
from raycomp.sections import DataConfig, EvaluationConfig

_RANK_IMAGES = {"search": 4, "full": 16}
_LATENCY_RUNS = {"search": 5, "full": 15}


@dataclass(frozen=True)
class Measurement:
    """What was measured; mIoU and IoU in [0, 1]."""

    clean_miou: float
    class_iou: np.ndarray
    """(K,), NaN for a class that does not occur."""
    corrupted: np.ndarray
    """(16, 5) mIoU of each type and severity; NaN where not measured, or on images without a labelled pixel."""
    rank: EffectiveRank
    latency_ms: float | None
    """Median of one image at batch 1; None where it was not timed."""
    throughput: float
    """Images a second at the configured batch, pre- and post-processing included."""
    images: int
    seconds: float
    tokens: list[list[int]]
    """For adaptive merging: tokens after each block of every pass on a clean image; else empty."""
    first: Accuracy | None
    """On the images that come first, where some do."""
    per_image: PerImage


class Stopped(Exception):  # noqa: N818  no error
    """A recipe was given up after the first images."""

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
    bars: Sequence[Accuracy] = (),
    timed: bool = True,
) -> Measurement:
    """Measure a compressed model on one stage of the evaluation set.

    Args:
        model: in evaluation mode, in float32 on any device; it is moved and cast.
        stage: `search` or `full`.
        bars: figures that the first images of the search stage must reach, one of each two.
        timed: whether to time one image.

    Raises:
        Stopped: for a model that is below both.
        UserError: where no pixel of the clean, or of the corrupted, images is labelled.
    """
    started = time.perf_counter()
    dtype = getattr(torch, config.dtype)
    model = model.to(device=device, dtype=dtype)
    pixels = NORMALIZATIONS[model.shape.normalization]
    window = sizes.window_for(model.shape)
    stride = sizes.stride_for(model.shape)
    chosen = data.chosen(config.search if stage == "search" else config.full)
    truth = data.labels if stage == "search" or config.at == "resized" else data.originals or data.labels
    K, V = model.shape.classes, 1 + len(VARIANTS)
    adaptive = model.recipe.adaptive
    batch = 1 if adaptive else config.batch  # in a batch, all images would merge what the least mergeable does
    tokens: list[list[int]] = []
    confusions = torch.zeros(V, K, K, dtype=torch.int64, device=device)
    by_class: list[Tensor] = []
    order: list[int] = []
    early = data.chosen(config.first) if stage == "search" and config.first is not None else chosen[:0]
    first: Accuracy | None = None
    with torch.inference_mode():
        for part in (early, np.setdiff1d(chosen, early)):
            for indices, images, labels in _batches(data, truth, part, batch):
                x = normalised(images.to(device, non_blocking=True), pixels.mean, pixels.std, dtype)
                with recorded(model) as passes:
                    logits = sliding_logits(model, x, window, stride)
                predicted = labels_at(logits, (labels.shape[-2], labels.shape[-1]))  # (B, H, W)
                if adaptive and data.variants[indices[0]] == CLEAN:
                    tokens += passes
                counts = _count(labels.to(device), predicted, K)
                confusions.index_add_(0, torch.from_numpy(data.variants[indices] + 1).to(device), counts)
                by_class.append(_by_class(counts))
                order += indices
            table = confusions.cpu().numpy()
            if part is early and len(early):
                first = Accuracy(miou(table[0]), float(np.nanmean(_by_variant(table, data.variants[early]))))
                if any(first.clean < bar.clean and first.corrupted < bar.corrupted for bar in bars):
                    raise Stopped(first, len(early), time.perf_counter() - started)
        throughput = len(chosen) / (time.perf_counter() - started)
        views, shown = data.images.views(), chosen[data.variants[chosen] == CLEAN][: _RANK_IMAGES[stage]]
        seen = (torch.from_numpy(views[i][None]).to(device) for i in shown)
        probe = torch.cat([first_window(normalised(x, pixels.mean, pixels.std, dtype), window) for x in seen])
        rank = effective_rank(model, probe)
        latency = latency_ms(model, probe[:1], _LATENCY_RUNS[stage]) if timed else None
    clean, corrupted = miou(table[0]), _by_variant(table, data.variants[chosen])
    if not (np.isfinite(clean) and np.isfinite(corrupted).any()):
        raise UserError(f"evaluation.{stage}: no pixel of its clean, or of its corrupted, images is labelled")
    hits, union = torch.cat(by_class).cpu().numpy().transpose(1, 0, 2)
    return Measurement(
        clean_miou=clean,
        class_iou=class_iou(table[0]),
        corrupted=corrupted.reshape(len(TYPES), len(SEVERITIES)),
        rank=rank,
        latency_ms=latency,
        throughput=throughput,
        images=len(chosen),
        seconds=time.perf_counter() - started,
        tokens=tokens,
        first=first,
        per_image=PerImage(hits, union, data.variants[order], data.label_of[order]),
    )


def _by_variant(confusions: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """mIoU of every corrupted variant (80,) from confusions (V, K, K); NaN where nothing is `measured` or labelled."""
    table = np.full(len(VARIANTS), np.nan)
    for variant in np.unique(measured):
        if variant != CLEAN:
            table[variant] = miou(confusions[1 + variant])
    return table


def _batches(data: EvalSet, truth: Stack, chosen: np.ndarray, batch: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Batches of equally large images and labels, clean and corrupted together, and which they are."""
    images, labels = data.images.views(), truth.views()
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index in chosen:
        by_size[images[index].shape + labels[data.label_of[index]].shape].append(int(index))
    for indices in by_size.values():
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            yield (
                part,
                torch.from_numpy(np.stack([images[i] for i in part])),
                torch.from_numpy(np.stack([labels[data.label_of[i]][..., 0] for i in part])),
            )


def _count(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Confusion matrices (B, K, K) int64 of a batch by one bincount; what is not labelled falls out."""
    rows = classes + 1  # the last one for IGNORE, which sorting out beforehand would take longer than counting
    image = torch.arange(len(labels), device=labels.device)[:, None, None]
    cell = (image * rows + labels.clamp(max=classes)) * classes + predicted
    counts = torch.bincount(cell.view(-1), minlength=len(labels) * rows * classes)
    return counts.view(-1, rows, classes)[:, :classes]


def _by_class(counts: Tensor) -> Tensor:
    """Hits and unions (B, 2, K) of confusion matrices (B, K, K)."""
    hits = counts.diagonal(dim1=1, dim2=2)
    return torch.stack([hits, counts.sum(1) + counts.sum(2) - hits], dim=1)
