"""Training augmentation of the paper: resize, crop, flip, photometric distortion (REFERENCE 1)."""

import cv2
import numpy as np

from raycomp.data.samples import IGNORE, Sample
from raycomp.sections import AugmentConfig
from raycomp.shape import Size

_CROP_TRIES = 10
_MAX_CLASS_SHARE = 0.75


def augment(sample: Sample, crop: Size, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """Draw one training crop (image crop x 3 uint8, label crop uint8) from a sample."""
    image, label = sample
    low, high = config.scale
    if (low, high) != (1.0, 1.0):
        image, label = _resize(image, label, float(rng.uniform(low, high)))
    image, label = _random_crop(image, label, crop, rng)
    if config.flip and rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    if config.photometric:
        image = _distort(image, rng)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def _resize(image: np.ndarray, label: np.ndarray, factor: float) -> Sample:
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), cv2.resize(
        label, size, interpolation=cv2.INTER_NEAREST
    )


def _random_crop(image: np.ndarray, label: np.ndarray, crop: Size, rng: np.random.Generator) -> Sample:
    """A crop in which no class covers more than 75 %; what lies outside the image is ignored."""
    height, width = crop
    down, right = max(0, height - label.shape[0]), max(0, width - label.shape[1])
    if down or right:
        image = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        label = cv2.copyMakeBorder(label, 0, down, 0, right, cv2.BORDER_CONSTANT, value=(IGNORE,))
    if label.shape == crop:
        return image, label
    top = left = 0
    for _ in range(_CROP_TRIES):
        top = int(rng.integers(0, label.shape[0] - height + 1))
        left = int(rng.integers(0, label.shape[1] - width + 1))
        window = label[top : top + height, left : left + width]
        counts = np.bincount(window[window != IGNORE], minlength=1)
        if counts.max() <= _MAX_CLASS_SHARE * max(1, counts.sum()):
            break
    return image[top : top + height, left : left + width], label[top : top + height, left : left + width]


def _distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each half of the time, as in SSD and mmsegmentation."""
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
