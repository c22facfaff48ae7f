"""Mean intersection over union from a confusion matrix, and the sliding window that fills it.

Legend: B batch, K classes, H W pixels.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.data.samples import IGNORE
from raycomp.shape import Size, enlarged_to

_CLASSES_AT_ONCE = 16


def confusion(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count pixels by (true class, predicted class), ignoring label 255: (K, K) int64, one bincount."""
    valid = truth != IGNORE
    pairs = truth[valid].long() * classes + predicted[valid].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """IoU of every class in [0, 1]; NaN for a class neither present nor predicted."""
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def miou(matrix: np.ndarray) -> float:
    """Mean IoU over the classes present in truth or prediction, in [0, 1]; NaN without any pixel."""
    ious = class_iou(matrix)
    return float(np.nanmean(ious)) if np.isfinite(ious).any() else float("nan")


def anchors(side: int, window: int, stride: int) -> list[int]:
    """Starts of the windows along one side: 0, stride, ... and a last one flush to the edge."""
    last = max(0, side - window)
    starts = list(range(0, last, stride))
    return [*starts, last]


Place = tuple[slice, slice]  # rows and columns of a window


def enlarged(images: Tensor, window: Size) -> Tensor:
    """Images (B, C, H, W), enlarged bilinearly where a window does not fit in, as in Segmenter's evaluation."""
    height, width = images.shape[-2:]
    size = enlarged_to((height, width), window)
    return images if size == (height, width) else F.interpolate(images, size, mode="bilinear")


def first_window(images: Tensor, window: Size) -> Tensor:
    """The top left window of images (B, C, H, W), enlarged where they are smaller."""
    return enlarged(images, window)[..., : window[0], : window[1]]


def windows(images: Tensor, window: Size, stride: int) -> Iterator[tuple[Place, Tensor]]:
    """Windows (B, C, height, width) of images (B, C, H, W) that are no smaller, and where they lie."""
    for top in anchors(images.shape[-2], window[0], stride):
        for left in anchors(images.shape[-1], window[1], stride):
            place = (slice(top, top + window[0]), slice(left, left + window[1]))
            yield place, images[(..., *place)]


def sliding_logits(model: Callable[[Tensor], Tensor], images: Tensor, window: Size, stride: int) -> Tensor:
    """Class logits (B, K, H, W) of images (B, 3, H, W), averaged where windows overlap.

    Images smaller than a window are enlarged to it, and have the logits of their enlarged size.
    """
    images = enlarged(images, window)
    if images.shape[-2:] == window:
        return model(images)
    total: Tensor | None = None
    for place, crop in windows(images, window, stride):
        logits = model(crop).float()  # the model may run elsewhere than its images lie, and in half precision
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *images.shape[-2:])
            count = logits.new_zeros(images.shape[-2:])
        total[(..., *place)] += logits
        count[place] += 1
    assert total is not None  # there is always at least one window
    return total / count


def labels_at(logits: Tensor, size: Size) -> Tensor:
    """The most likely class of each pixel (B, height, width) int64, of logits (B, K, H, W) upsampled to a size.

    A few classes are upsampled at a time: at 150 classes all of a large photograph's would take gigabytes.
    """
    if logits.shape[-2:] == size:
        return logits.argmax(1)
    best = labels = torch.empty(0)
    for first in range(0, logits.shape[1], _CLASSES_AT_ONCE):
        some = logits[:, first : first + _CLASSES_AT_ONCE].float()  # half precision would move borders
        part = F.interpolate(some, size, mode="bilinear")
        highest, which = part.max(1)
        which += first
        if first:
            better = highest > best
            highest, which = torch.where(better, highest, best), torch.where(better, which, labels)
        best, labels = highest, which
    return labels


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Turn uint8 images (B, H, W, 3) into model input (B, 3, H, W)."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(1, 3, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(1, 3, 1, 1)
    return (images.permute(0, 3, 1, 2).float() * scale - shift).to(dtype)
