# SPDX-License-Identifier: Apache-2.0
"""Formats of figures: means over seeds with intervals, and times."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figure:
    """Mean over seeds and half width of its 95 % interval (0 for one seed), in the unit of the values."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Return the mean with Student's t interval."""
        from scipy.stats import t as student  # slow to import

        n = len(values)
        spread = float(np.std(values, ddof=1)) / n**0.5 if n > 1 else 0.0
        return cls(float(np.mean(values)), spread * float(student.ppf((1 + _CONFIDENCE) / 2, max(1, n - 1))))

    def text(self, factor: float) -> str:
        """Format values times a factor: `43.21 ± 0.12`, or `43.21` for one seed."""
        return f"{factor * self.mean:.2f}" + (f" ± {factor * self.half:.2f}" if self.half else "")

    def percent(self) -> str:
        """Format fractions in percent: `43.21 ± 0.12`."""
        return self.text(100)


def duration(seconds: float) -> str:
    """Format a duration in a suitable unit: `95 s`, `13 min`, `2.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def moment(when: datetime) -> str:
    """Format a time-zone-aware time: `2026-03-01 17:05 UTC`."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
