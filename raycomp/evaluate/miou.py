# SPDX-License-Identifier: Apache-2.0
"""Mean intersection over union from a confusion matrix, without torch.

Legend: K classes.
"""

from typing import NamedTuple

import numpy as np

from raycomp.evaluate.robustness import measured_mean


class Accuracy(NamedTuple):
    """The two accuracies that recipes are compared by, in [0, 1]."""

    clean: float
    """mIoU of the clean images."""
    corrupted: float
    """Mean mIoU over the corrupted variants."""


def iou(hits: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Return hits / union, in [0, 1]; NaN for classes neither present nor predicted."""
    return np.divide(hits, union, out=np.full(union.shape, np.nan), where=union > 0)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """Return the `iou` of every class (K,) from a confusion matrix (K, K)."""
    hits = np.diag(matrix).astype(np.float64)
    return iou(hits, matrix.sum(0) + matrix.sum(1) - hits)


def miou(matrix: np.ndarray) -> float:
    """Return the mean IoU over classes present or predicted, in [0, 1]; NaN without labelled pixels."""
    return float(measured_mean(class_iou(matrix), axis=0))
