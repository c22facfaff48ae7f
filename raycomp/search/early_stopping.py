"""What the first images of a trial tell about all of them, learned from the trials that were measured whole."""

import math

import moocore
import numpy as np

from raycomp import objectives
from raycomp.evaluate.miou import Accuracy
from raycomp.results.pareto import front
from raycomp.results.row import Row

_LEAST = 10  # whole trials to learn from
_DOUBT = 2.0  # standard deviations that a recipe may still gain


class EarlyStopping:
    """How much the measured objectives of whole trials differ from those of their first images."""

    def __init__(self) -> None:
        self._gains: list[np.ndarray] = []
        self._front: list[Row] = []

    def learn(self, row: Row) -> None:
        """Take a trial of the search into account."""
        if row.status != "complete" or not all(one.has_first(row) for one in objectives.measured()):
            return
        self._gains.append(_values(row) - _first(row))
        self._front = front([*self._front, row])

    def thresholds(self, budget: float) -> tuple[Accuracy, ...]:
        """For a recipe of this cost, figures of the first images; below both of one it cannot reach the front.

        Members of the front that cost no more set them: their accuracy, less what whole trials gain on average over
        their first images, less what doubt there is about that. None until enough is known, nor where an objective is
        not estimated from the first images.
        """
        names = [objective.short for objective in objectives.measured()]
        if len(self._gains) < _LEAST or not all(objective.first for objective in objectives.measured()):
            return ()
        slack = np.mean(self._gains, axis=0) + _DOUBT * np.std(self._gains, axis=0, ddof=1)
        cheaper = [row for row in self._front if row.cost <= budget]
        if not cheaper:
            return ()
        reached = np.array([_values(row) for row in cheaper])
        found = (reached[moocore.is_nondominated(-reached)] - slack).tolist()
        unlimited = dict.fromkeys(Accuracy._fields, math.inf)
        return tuple(Accuracy(**unlimited | dict(zip(names, threshold, strict=True))) for threshold in found)

    def expected(self, row: Row) -> tuple[float, ...]:
        """The measured objectives of a stopped row on all images, as far as can be told."""
        first = _first(row)
        gains = np.mean(self._gains or [np.zeros_like(first)], axis=0)
        return tuple((first + gains).tolist())


def _values(row: Row) -> np.ndarray:
    return np.array([objective.value(row) for objective in objectives.measured()])


def _first(row: Row) -> np.ndarray:
    return np.array([objective.first_value(row) for objective in objectives.measured()])
