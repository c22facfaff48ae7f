# SPDX-License-Identifier: Apache-2.0
"""Training augmentation of the paper: resize, crop, flip, photometric distortion (REFERENCE 1 and 3)."""

import cv2
import numpy as np

from raycomp.data.resize import resized
from raycomp.data.samples import IGNORE, Sample
from raycomp.settings.training import AugmentConfig
from raycomp.shape import OWN_SIZE, Scale, Size

_CROP_TRIES = 10
_MAX_CLASS_SHARE = 0.75


def augment(
    sample: Sample, crop: Size, config: AugmentConfig, rng: np.random.Generator, scale: Scale = OWN_SIZE
) -> Sample:
    """Draw one training crop from a sample: an image (H, W, 3) uint8 and its label (H, W) uint8.

    Args:
        crop: height and width of the crop; a sample that is smaller after resizing gives a smaller crop.
        scale: base size that `config.scale` varies.
    """
    low, high = config.scale
    factor = 1.0 if (low, high) == (1.0, 1.0) else float(rng.uniform(low, high))
    size = (sample[1].shape[0], sample[1].shape[1])
    image, label = _random_crop(*resized(sample, scale.of(size, factor)), crop, rng)
    if config.flip and rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    if config.photometric:
        image = _distort(image, rng)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def _random_crop(image: np.ndarray, label: np.ndarray, crop: Size, rng: np.random.Generator) -> Sample:
    """Draw a crop with several classes, none of which covers 75 %; after ten failed tries, accept any crop."""
    height, width = (min(side, limit) for side, limit in zip(label.shape, crop, strict=True))
    if label.shape == (height, width):
        return image, label
    for left_to_try in reversed(range(_CROP_TRIES + 1)):
        top = int(rng.integers(0, label.shape[0] - height + 1))
        left = int(rng.integers(0, label.shape[1] - width + 1))
        window = label[top : top + height, left : left + width]
        if left_to_try == 0 or _is_varied(window):
            break
    return image[top : top + height, left : left + width], window


def _is_varied(label: np.ndarray) -> bool:
    _, counts = np.unique(label[label != IGNORE], return_counts=True)
    return len(counts) > 1 and bool(counts.max() < _MAX_CLASS_SHARE * counts.sum())


def padded(sample: Sample, crop: Size) -> Sample:
    """Pad a crop to its full size below and to the right, in black and unlabelled."""
    image, label = sample
    down, right = crop[0] - label.shape[0], crop[1] - label.shape[1]
    if not (down or right):
        return sample
    edges = ((0, down), (0, right))
    return np.pad(image, (*edges, (0, 0))), np.pad(label, edges, constant_values=IGNORE)


def _distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary brightness, contrast, saturation and hue, each with probability 0.5, as in SSD and mmsegmentation."""
    x: np.ndarray = image.astype(np.float32)
    if rng.random() < 0.5:
        x += rng.uniform(-32, 32)
    if rng.random() < 0.5:
        x *= rng.uniform(0.5, 1.5)
    if rng.random() < 0.5:
        grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
        x = grey[..., None] + rng.uniform(0.5, 1.5) * (x - grey[..., None])
    x = np.clip(x, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
        hue = hsv[..., 0].astype(np.int16) + int(rng.integers(-9, 10))  # OpenCV's hue is in steps of 2 degrees
        hsv[..., 0] = hue % 180
        x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return x
