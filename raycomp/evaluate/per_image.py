"""What each image adds to the confusions of a model, and what mIoU would be on other draws of the images.

Legend: I images, K classes, S source images, R draws.
"""

import io
from dataclasses import dataclass

import numpy as np

from raycomp.data.evalset import CLEAN


@dataclass(frozen=True)
class PerImage:
    """Pixels of every image by class; a source image is seen clean and in several corrupted variants."""

    hits: np.ndarray
    """(I, K) int64, pixels that are of a class and were predicted so."""
    union: np.ndarray
    """(I, K) int64, pixels that are of a class or were predicted so."""
    variants: np.ndarray
    """(I,) int64, -1 for a clean image, else an index into VARIANTS."""
    sources: np.ndarray
    """(I,) int64."""

    def packed(self) -> bytes:
        """As NumPy's compressed archive: `hits`, `union`, `variants`, `sources`."""
        buffer = io.BytesIO()
        hits, union = self.hits.astype(np.int32), self.union.astype(np.int32)
        np.savez_compressed(buffer, hits=hits, union=union, variants=self.variants, sources=self.sources)
        return buffer.getvalue()

    @classmethod
    def unpacked(cls, data: bytes) -> "PerImage":
        """The inverse of `packed`."""
        with np.load(io.BytesIO(data)) as held:
            return cls(*(held[name].astype(np.int64) for name in ("hits", "union", "variants", "sources")))

    def drawn(self, draws: int, seed: int = 0) -> np.ndarray:
        """Clean and corrupted mIoU (R, 2) on bootstrap draws of the source images, each with all its variants.

        Models that were measured on the same images get the same draws, so that their differences are of the models.
        """
        _, source = np.unique(self.sources, return_inverse=True)
        S, rng = int(source.max()) + 1, np.random.default_rng(seed)
        times = rng.multinomial(S, np.full(S, 1 / S), size=draws).astype(np.float64)  # (R, S)
        clean, corrupted = np.full(draws, np.nan), []
        for variant in np.unique(self.variants):
            own = self.variants == variant
            weights = times[:, source[own]]  # (R, I of the variant)
            value = _miou(weights @ self.hits[own], weights @ self.union[own])
            if variant == CLEAN:
                clean = value
            else:
                corrupted.append(value)
        return np.stack([clean, np.mean(corrupted, axis=0) if corrupted else np.full(draws, np.nan)], axis=1)


def _miou(hits: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Mean over the classes that occur, (R, K) -> (R,); 0 in a draw without any image."""
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
    return iou.sum(1) / np.maximum(1, (union > 0).sum(1))
