"""How sure the figures of a front are: bootstrap intervals over images, and which members images cannot tell apart.

Efron & Tibshirani, "An Introduction to the Bootstrap", 1993: percentile intervals; source images are drawn with
replacement, each with all its corrupted variants, and all members get the same draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycomp.evaluate.per_image import PerImage
from raycomp.results.row import Row, cost

_DRAWS = 1000
_PERCENTILES = (2.5, 97.5)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Trust:
    """Of one member; mIoU in [0, 1]."""

    clean: Interval
    """95 %."""
    corrupted: Interval
    tie: str | None
    """The cheapest member that is not measurably less accurate, clean or corrupted, where there is one."""

    @property
    def half_widths(self) -> tuple[float, float]:
        """Of the clean and the corrupted interval."""
        return (self.clean[1] - self.clean[0]) / 2, (self.corrupted[1] - self.corrupted[0]) / 2


def trust(members: Sequence[Row]) -> dict[str, Trust]:
    """Of each member by recipe id; empty where rows hold no figures of single images.

    Args:
        members: of one stage of one sweep.
    """
    rows = sorted((row for row in members if row.get("per_image")), key=cost)
    draws = {row["recipe_id"]: PerImage.unpacked(row["per_image"]).drawn(_DRAWS) for row in rows}
    found = {}
    for index, row in enumerate(rows):
        own = draws[row["recipe_id"]]
        cheaper = (other["recipe_id"] for other in rows[:index] if cost(other) < cost(row))
        tie = next((name for name in cheaper if _as_good(draws[name] - own)), None)
        (low, low_corrupted), (high, high_corrupted) = np.nanpercentile(own, _PERCENTILES, axis=0).tolist()
        found[row["recipe_id"]] = Trust((low, high), (low_corrupted, high_corrupted), tie)
    return found


def _as_good(difference: np.ndarray) -> bool:
    """Whether neither clean nor corrupted mIoU (R, 2) is less for sure."""
    return bool((np.nanpercentile(difference, _PERCENTILES[1], axis=0) >= 0).all())
