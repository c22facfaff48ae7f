"""How sure the figures of a front are: bootstrap intervals over images, and which members images cannot tell apart.

Efron & Tibshirani, "An Introduction to the Bootstrap", 1993: normal intervals with the bootstrap's standard error, as
mIoU on draws, in which fewer different images stand for a class, is not centred on the figure itself. Source images are
drawn with replacement, each with all its corrupted variants, and all members get the same draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycomp.evaluate.per_image import PerImage
from raycomp.results.row import Row, present

_DRAWS = 1000
_Z = 1.96  # standard errors that a 95 % interval is wide, to either side

Interval = tuple[float, float]


@dataclass(frozen=True)
class Confidence:
    """Of one member; mIoU in [0, 1]."""

    clean: Interval
    """95 %."""
    corrupted: Interval
    tie: str | None
    """The cheapest member that is not measurably less accurate, clean or corrupted, where there is one."""

    def half_width(self, name: str) -> float | None:
        """Half of the interval of an objective, by its short name; None for one that single images do not tell."""
        interval = {"clean": self.clean, "corrupted": self.corrupted}.get(name)
        return None if interval is None else (interval[1] - interval[0]) / 2


def confidence(members: Sequence[Row]) -> dict[str, Confidence]:
    """Of each member by recipe id; empty where rows hold no figures of single images.

    Args:
        members: of one stage of one sweep.
    """
    rows = sorted((row for row in members if row.per_image), key=lambda row: row.cost)
    images = {row.recipe_id: PerImage.unpacked(present(row.per_image)) for row in rows}
    figures = {name: one.accuracy() for name, one in images.items()}
    draws = {name: one.drawn(_DRAWS) for name, one in images.items()}
    found = {}
    for index, row in enumerate(rows):
        own = row.recipe_id
        cheaper = (other.recipe_id for other in rows[:index] if other.cost < row.cost)
        tie = next((c for c in cheaper if _as_good(figures[c] - figures[own], draws[c] - draws[own])), None)
        half = _Z * np.nanstd(draws[own], axis=0, ddof=1)
        (low, low_corrupted), (high, high_corrupted) = (figures[own] - half).tolist(), (figures[own] + half).tolist()
        found[own] = Confidence((low, high), (low_corrupted, high_corrupted), tie)
    return found


def _as_good(difference: np.ndarray, drawn: np.ndarray) -> bool:
    """Whether neither clean nor corrupted mIoU (2,) is less for sure, by its differences on the draws (R, 2)."""
    return bool((difference + _Z * np.nanstd(drawn, axis=0, ddof=1) >= 0).all())
