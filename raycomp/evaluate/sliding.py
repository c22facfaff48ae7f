# SPDX-License-Identifier: Apache-2.0
"""Normalised images, and sliding-window inference.

Legend: B batch, K classes, H W pixels.
"""

from collections.abc import Callable
from functools import cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.evaluate.labels import Place, averaged
from raycomp.shape import Size, enlarged_to


def anchors(side: int, window: int, stride: int) -> list[int]:
    """Return the starts of windows along one side: 0, stride, ..., and the last flush with the edge."""
    last = max(0, side - window)
    starts = list(range(0, last, stride))
    return [*starts, last]


def enlarged(images: Tensor, window: Size) -> Tensor:
    """Enlarge images (B, C, H, W) bilinearly until a window fits, as in Segmenter's evaluation."""
    height, width = images.shape[-2:]
    size = enlarged_to((height, width), window)
    return images if size == (height, width) else F.interpolate(images, size, mode="bilinear")


def first_window(images: Tensor, window: Size) -> Tensor:
    """Return the top-left window of images (B, C, H, W), enlarged if they are smaller."""
    return enlarged(images, window)[..., : window[0], : window[1]]


@cache
def places(size: Size, window: Size, stride: int) -> tuple[Place, ...]:
    """Return the places of the windows, row by row, in an image that is at least as large."""
    starts = product(anchors(size[0], window[0], stride), anchors(size[1], window[1], stride))
    return tuple((slice(top, top + window[0]), slice(left, left + window[1])) for top, left in starts)


def sliding_logits(model: Callable[[Tensor], Tensor], images: Tensor, window: Size, stride: int) -> Tensor:
    """Return class logits (B, K, H, W) of images (B, 3, H, W), averaged where windows overlap.

    Images smaller than a window are enlarged until it fits, and the logits have the enlarged size.
    """
    images = enlarged(images, window)
    if images.shape[-2:] == window:
        return model(images)
    size = (images.shape[-2], images.shape[-1])
    return averaged(((place, model(images[(..., *place)])) for place in places(size, window, stride)), size)


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Normalise uint8 images (B, H, W, 3) to model input (B, 3, H, W)."""
    scale, shift = _scale_and_shift(mean, std, images.device)
    return (images.permute(0, 3, 1, 2).float() * scale - shift).to(dtype)


@cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Cache the constants per device, because a copy to a GPU synchronises."""
    with torch.inference_mode(False):  # also used in training
        scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
        shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)
    return scale, shift
