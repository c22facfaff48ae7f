"""What a search optimises: its objectives, from which fronts, samplers, reports and copies take names and directions.

The measured objectives come first, and the cost last: it is known before a recipe is measured, and limited.
"""

from collections.abc import Sequence
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
    """The worst value that adds to a hypervolume; of the cost relative to the dense model's."""
    unit: str = ""
    factor: float = 1.0
    """From a value to its unit."""
    first: str = ""
    """Attribute of a row with the value on the first images, if these are enough to estimate it."""

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The direction as Optuna calls it."""
        return "maximize" if self.maximised else "minimize"

    @property
    def axis(self) -> str:
        """Label of an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def value(self, row: object) -> float:
        """The value of a complete row."""
        return float(getattr(row, self.name))

    def has_first(self, row: object) -> bool:
        """Whether a row has a value on its first images, as far as that is needed."""
        return not self.first or getattr(row, self.first) is not None

    def first_value(self, row: object) -> float:
        """The value on a row's first images; 0 for an objective without one, so that all of it counts as gained."""
        return float(getattr(row, self.first)) if self.first else 0.0

    def scaled(self, row: object) -> float:
        """The value of a complete row in the objective's unit."""
        return self.factor * self.value(row)

    def text(self, value: float, decimals: int = 2) -> str:
        """A value as it is printed."""
        return f"{self.factor * value:.{decimals}f}"

    def change(self, value: float, decimals: int = 1) -> str:
        """A difference of two values as it is printed."""
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
    """The objectives that only a measurement tells: all but the cost."""
    return OBJECTIVES[:-1]


def directions() -> list[Literal["maximize", "minimize"]]:
    """The direction of every objective, as Optuna calls it."""
    return [objective.direction for objective in OBJECTIVES]


def values(row: object) -> tuple[float, ...]:
    """The objectives of a complete row."""
    return tuple(objective.value(row) for objective in OBJECTIVES)


def signs() -> np.ndarray:
    """For every objective the factor (M,) that makes it one to maximise."""
    return np.array([1 if objective.maximised else -1 for objective in OBJECTIVES])


def minimised(points: ArrayLike) -> np.ndarray:
    """Points (..., M) with every objective to be minimised."""
    return np.asarray(points) * -signs()


def mious() -> list[Objective]:
    """The objectives that are mIoUs."""
    return [objective for objective in measured() if objective.unit == "%"]


def mean_accuracy(row: object) -> float:
    """Mean of the mIoUs of a complete row, by which one recipe of several is chosen."""
    return sum(objective.value(row) for objective in mious()) / len(mious())


def both(row: object, decimals: int = 2) -> str:
    """The measured objectives of a complete row: `72.10 / 58.33`."""
    return " / ".join(objective.text(objective.value(row), decimals) for objective in measured())


def shorts() -> str:
    """Their names: `clean / corrupted`."""
    return " / ".join(objective.short for objective in measured())


def changes(row: object, others: Sequence[float], decimals: int = 1) -> str:
    """What a row's measured objectives are more than other values: `+1.0 / -0.3`."""
    pairs = zip(measured(), others, strict=True)
    return " / ".join(objective.change(objective.value(row) - other, decimals) for objective, other in pairs)
