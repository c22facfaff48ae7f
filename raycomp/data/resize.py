# SPDX-License-Identifier: Apache-2.0
"""Resize images bilinearly and labels by nearest neighbour."""

import cv2
import numpy as np

from raycomp.data.samples import Sample
from raycomp.shape import OWN_SIZE, Scale, Size, enlarged_to


def resized(sample: Sample, size: Size) -> Sample:
    """Resize an image and its label to a height and width in pixels."""
    image, label = sample
    return resized_image(image, size), resized_image(label, size, cv2.INTER_NEAREST)


def resized_image(image: np.ndarray, size: Size, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize an image to a height and width in pixels."""
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=interpolation)


def centre(sample: Sample, window: Size) -> Sample:
    """Crop the centre of a sample that is at least as large as the window."""
    image, label = sample
    top, left = (label.shape[0] - window[0]) // 2, (label.shape[1] - window[1]) // 2
    here = slice(top, top + window[0]), slice(left, left + window[1])
    return image[here], label[here]


def at_least(sample: Sample, window: Size, scale: Scale = OWN_SIZE) -> Sample:
    """Resize a sample to a scale, and enlarge it if it is smaller than a window."""
    size = (sample[1].shape[0], sample[1].shape[1])
    return resized(sample, enlarged_to(scale.of(size), window))
