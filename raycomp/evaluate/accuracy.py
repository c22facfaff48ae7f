"""The two figures that recipes are compared by."""

from typing import NamedTuple


class Accuracy(NamedTuple):
    """Clean mIoU, and the mean over corrupted variants, in [0, 1]."""

    clean: float
    corrupted: float
