# SPDX-License-Identifier: Apache-2.0
"""Hits and unions of each image, and mIoU on bootstrap draws of the images.

Legend: I images, K classes, S source images, R draws.
"""

import io
from dataclasses import dataclass

import numpy as np

from raycomp.data.evalset import CLEAN
from raycomp.evaluate.miou import iou
from raycomp.evaluate.robustness import measured_mean


@dataclass(frozen=True)
class PerImage:
    """Pixel counts of every image by class; a source image occurs clean and in several corrupted variants."""

    hits: np.ndarray
    """(I, K) int64, pixels of a class that were predicted as it."""
    union: np.ndarray
    """(I, K) int64, pixels of a class or predicted as it."""
    variants: np.ndarray
    """(I,) int64, -1 for a clean image, otherwise an index into VARIANTS."""
    sources: np.ndarray
    """(I,) int64, index of the source image."""

    def packed(self) -> bytes:
        """Pack into a compressed NumPy archive: `hits`, `union`, `variants`, `sources`."""
        buffer = io.BytesIO()
        hits, union = self.hits.astype(np.int32), self.union.astype(np.int32)
        np.savez_compressed(buffer, hits=hits, union=union, variants=self.variants, sources=self.sources)
        return buffer.getvalue()

    @classmethod
    def unpacked(cls, data: bytes) -> "PerImage":
        """Read what `packed` returned."""
        with np.load(io.BytesIO(data)) as arrays:
            return cls(*(arrays[name].astype(np.int64) for name in ("hits", "union", "variants", "sources")))

    def accuracy(self) -> np.ndarray:
        """Return clean and corrupted mIoU (2,) of the images."""
        return self._accuracy(np.ones((1, len(np.unique(self.sources)))))[0]

    def drawn(self, draws: int, seed: int = 0) -> np.ndarray:
        """Return clean and corrupted mIoU (R, 2) on bootstrap draws of the source images, each with all its variants.

        Models measured on the same images get the same draws, so that their differences are due to the models.
        """
        S, rng = len(np.unique(self.sources)), np.random.default_rng(seed)
        return self._accuracy(rng.multinomial(S, np.full(S, 1 / S), size=draws).astype(np.float64))

    def _accuracy(self, times: np.ndarray) -> np.ndarray:
        """Return clean and corrupted mIoU (R, 2) with sources counted `times` (R, S); undrawn variants are ignored."""
        _, source = np.unique(self.sources, return_inverse=True)
        clean, corrupted = np.full(len(times), np.nan), []
        for variant in np.unique(self.variants):
            members = self.variants == variant
            weights = times[:, source[members]]  # (R, I of the variant)
            value = measured_mean(iou(weights @ self.hits[members], weights @ self.union[members]), axis=1)
            if variant == CLEAN:
                clean = value
            else:
                corrupted.append(value)
        mean = measured_mean(np.array(corrupted).reshape(len(corrupted), len(times)), axis=0)
        return np.stack([clean, mean], axis=1)
