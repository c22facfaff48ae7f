"""Mean intersection over union from a confusion matrix, and the sliding window that fills it.

Legend: B batch, K classes, H W pixels.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.evaluate.labels import Place, averaged
from raycomp.shape import Size, enlarged_to


class Accuracy(NamedTuple):
    """The two figures that recipes are compared by, in [0, 1]."""

    clean: float
    """mIoU of the clean images."""
    corrupted: float
    """Mean mIoU over the corrupted variants."""


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
    seen = (images.shape[-2], images.shape[-1])  # the model may run elsewhere than its images lie, in half precision
    return averaged(((place, model(crop)) for place, crop in windows(images, window, stride)), seen)


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Turn uint8 images (B, H, W, 3) into model input (B, 3, H, W)."""
    scale, shift = _scale_and_shift(mean, std, images.device)
    return (images.permute(0, 3, 1, 2).float() * scale - shift).to(dtype)


@cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Made once for a device: a copy to a GPU waits for it."""
    with torch.inference_mode(False):  # training uses them, too
        scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
        shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)
    return scale, shift
