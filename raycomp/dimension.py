# SPDX-License-Identifier: Apache-2.0
"""One integer of the grid of recipes that a search space spans."""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Dimension:
    """One integer of the grid, from low to high in steps; `full` is the end without compression."""

    name: str
    low: int
    high: int
    step: int
    full: int
    drop: bool = False
    """Whether `low`, one step below the smallest width, stands for width 0: the sublayer is dropped."""

    @property
    def kept(self) -> "Dimension":
        """The same dimension without the grid value that drops the sublayer."""
        return replace(self, low=self.low + self.step, drop=False) if self.drop else self

    def compression(self, value: float) -> float:
        """Return the compression of a value: 0 at the full end, 1 at the other."""
        return abs(value - self.full) / max(1, self.high - self.low)

    def at(self, compression: float) -> int:
        """Return the grid value with at least this compression."""
        steps = math.ceil(compression * (self.high - self.low) / self.step - 1e-9)
        distance = min(steps * self.step, self.high - self.low)
        return self.full - distance if self.full == self.high else self.full + distance

    def snap(self, width: float) -> int:
        """Return the nearest grid value; only width 0 gives the one that drops the sublayer."""
        if self.drop and width == 0:
            return self.low
        low = self.kept.low
        steps = round((min(max(width, low), self.high) - low) / self.step)
        return min(low + steps * self.step, self.high)
