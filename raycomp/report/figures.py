"""How figures are written: means over seeds with their intervals, and times."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figure:
    """Mean over seeds, in the unit of its values, and the half width of its 95 % interval (0 with one seed)."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Student's t interval of the mean."""
        from scipy.stats import t as student  # slow to import

        n = len(values)
        spread = float(np.std(values, ddof=1)) / n**0.5 if n > 1 else 0.0
        return cls(float(np.mean(values)), spread * float(student.ppf((1 + _CONFIDENCE) / 2, max(1, n - 1))))

    def text(self, factor: float) -> str:
        """`43.21 ± 0.12` in the unit that a factor leads to, or without the interval where there is none."""
        return f"{factor * self.mean:.2f}" + (f" ± {factor * self.half:.2f}" if self.half else "")

    def percent(self) -> str:
        """The same in percent."""
        return self.text(100)


def duration(seconds: float) -> str:
    """A time in the unit that suits it: `95 s`, `13 min`, `2.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def moment(when: datetime) -> str:
    """`2026-03-01 17:05 UTC`, of a time that knows its zone."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
