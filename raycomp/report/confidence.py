# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals of a front's mIoU from a bootstrap over images, and ties between its members.

Efron & Tibshirani, "An Introduction to the Bootstrap", 1993: normal intervals with the bootstrap's standard error.
Percentile intervals would be biased: a draw has fewer distinct images per class, so its mIoU is not centred on the
measured one. Source images are drawn with replacement, each with all its corrupted variants; all members share draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycomp.evaluate.per_image import PerImage
from raycomp.results.row import Row, present

DRAWS = 1000
"""Draws of the bootstrap."""
Z = 1.96
"""Half the width of a 95 % interval, in standard errors."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Confidence:
    """95 % intervals of one member; mIoU in [0, 1]."""

    clean: Interval
    corrupted: Interval
    tie: str | None
    """Recipe id of the cheapest member that is not significantly less accurate, clean or corrupted; None if none is."""

    def half_width(self, name: str) -> float | None:
        """Return half the interval of an objective, by short name; None for one that has no values per image."""
        interval = {"clean": self.clean, "corrupted": self.corrupted}.get(name)
        return None if interval is None else (interval[1] - interval[0]) / 2


def confidence(members: Sequence[Row]) -> dict[str, Confidence]:
    """Return the confidence of rows of one stage by recipe id, without rows that have no counts per image."""
    rows = sorted((row for row in members if row.per_image), key=lambda row: row.cost)
    images = {row.recipe_id: PerImage.unpacked(present(row.per_image)) for row in rows}
    figures = {name: one.accuracy() for name, one in images.items()}
    draws = {name: one.drawn(DRAWS) for name, one in images.items()}
    result = {}
    for index, row in enumerate(rows):
        name = row.recipe_id
        cheaper = (other.recipe_id for other in rows[:index] if other.cost < row.cost)
        tie = next((c for c in cheaper if _as_good(figures[c] - figures[name], draws[c] - draws[name])), None)
        half = Z * standard_errors(draws[name])
        (low, low_corrupted), (high, high_corrupted) = (figures[name] - half).tolist(), (figures[name] + half).tolist()
        result[name] = Confidence((low, high), (low_corrupted, high_corrupted), tie)
    return result


def standard_errors(drawn: np.ndarray) -> np.ndarray:
    """Return the standard errors (2,), clean and corrupted, from the values (R, 2) on draws of the images."""
    return np.array(np.nanstd(drawn, axis=0, ddof=1))


def _as_good(difference: np.ndarray, drawn: np.ndarray) -> bool:
    """Return whether neither clean nor corrupted mIoU (2,) is significantly lower, by differences on draws (R, 2)."""
    return bool((difference + Z * standard_errors(drawn) >= 0).all())
