# SPDX-License-Identifier: Apache-2.0
"""Counts of single images."""

import numpy as np

from raycomp.evaluate.per_image import PerImage


def random_images(seed: int, images: int = 12, classes: int = 4) -> PerImage:
    """Images of four sources, clean and in two variants."""
    rng = np.random.default_rng(seed)
    union = rng.integers(1, 100, (images, classes))
    hits = (union * rng.random((images, classes))).astype(np.int64)
    return PerImage(hits, union, np.repeat([-1, 3, 70], images // 3), np.tile(np.arange(4), images // 4))
