# SPDX-License-Identifier: Apache-2.0
"""The objectives of a search. Fronts, samplers, reports and replicas take names and directions from here.

Measured objectives come first. The cost is last: it is known before a recipe is measured, and the budget limits it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One objective."""

    name: str
    """Attribute of a row, and the name in Optuna and MLflow."""
    short: str
    """Name in tables and JSON."""
    title: str
    """Name on axes and in figures."""
    maximised: bool
    reference: float
    """Reference value of the hypervolume; for the cost, relative to the dense model."""
    unit: str = ""
    factor: float = 1.0
    """Multiplies a value to give it in `unit`."""
    first: str = ""
    """Attribute of a row with the value on the first images; empty if they cannot estimate the objective."""

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Optuna's name of the direction."""
        return "maximize" if self.maximised else "minimize"

    @property
    def axis(self) -> str:
        """Axis label: title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def value(self, row: object) -> float:
        """Return the value of a complete row."""
        return float(getattr(row, self.name))

    def has_first(self, row: object) -> bool:
        """Return whether a row has the value on its first images, or the objective needs none."""
        return not self.first or getattr(row, self.first) is not None

    def first_value(self, row: object) -> float:
        """Return the value on a row's first images; 0 for an objective without one, so all of its value is a gain."""
        return float(getattr(row, self.first)) if self.first else 0.0

    def scaled(self, row: object) -> float:
        """Return the value of a complete row in the objective's unit."""
        return self.factor * self.value(row)

    def text(self, value: float, decimals: int = 2) -> str:
        """Format a value."""
        return f"{self.factor * value:.{decimals}f}"

    def change(self, value: float, decimals: int = 1) -> str:
        """Format a difference of two values, with its sign."""
        return f"{self.factor * value:+.{decimals}f}"


CLEAN = Objective(
    name="clean_miou", short="clean", title="clean mIoU", maximised=True, reference=0.0, unit="%", factor=100.0,
    first="early_clean_miou",
)  # fmt: skip
CORRUPTED = Objective(
    name="corrupted_miou", short="corrupted", title="corrupted mIoU", maximised=True, reference=0.0, unit="%",
    factor=100.0, first="early_corrupted_miou",
)  # fmt: skip
COST = Objective(name="cost", short="cost", title="cost", maximised=False, reference=1.0)

OBJECTIVES: tuple[Objective, ...] = (CLEAN, CORRUPTED, COST)


def measured() -> tuple[Objective, ...]:
    """Return the objectives that must be measured: all but the cost."""
    return OBJECTIVES[:-1]


def directions() -> list[Literal["maximize", "minimize"]]:
    """Return Optuna's direction of every objective."""
    return [objective.direction for objective in OBJECTIVES]


def values(row: object) -> tuple[float, ...]:
    """Return the objective values of a complete row."""
    return tuple(objective.value(row) for objective in OBJECTIVES)


def signs() -> np.ndarray:
    """Return the signs (M,) that turn every objective into one to maximise."""
    return np.array([1 if objective.maximised else -1 for objective in OBJECTIVES])


def minimised(points: ArrayLike) -> np.ndarray:
    """Return points (..., M) with signs flipped so that every objective is minimised."""
    return np.asarray(points) * -signs()


def mious() -> list[Objective]:
    """Return the objectives that are mIoUs."""
    return [objective for objective in measured() if objective.unit == "%"]


def mean_accuracy(row: object) -> float:
    """Return the mean of a complete row's mIoUs, the criterion for choosing one recipe among several."""
    return sum(objective.value(row) for objective in mious()) / len(mious())


def both(row: object, decimals: int = 2) -> str:
    """Format the measured objectives of a complete row: `72.10 / 58.33`."""
    return " / ".join(objective.text(objective.value(row), decimals) for objective in measured())


def shorts() -> str:
    """Return the names that go with `both`: `clean / corrupted`."""
    return " / ".join(objective.short for objective in measured())


def changes(row: object, other: object, decimals: int = 1) -> str:
    """Format the differences of a row's measured objectives from those of another: `+1.0 / -0.3`."""
    return " / ".join(one.change(one.value(row) - one.value(other), decimals) for one in measured())
