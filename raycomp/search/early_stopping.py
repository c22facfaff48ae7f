# SPDX-License-Identifier: Apache-2.0
"""Predict a trial's objectives from its first images, learning from trials measured on all images."""

import math

import moocore
import numpy as np

from raycomp import objectives
from raycomp.evaluate.miou import Accuracy
from raycomp.results.pareto import front
from raycomp.results.row import Row

_MIN_TRIALS = 10  # complete trials needed before any threshold is set
_MARGIN = 2.0  # standard deviations a recipe may gain beyond the mean


class EarlyStopping:
    """Estimates how the measured objectives change from the first images to all images."""

    def __init__(self) -> None:
        self._gains: list[np.ndarray] = []
        self._front: list[Row] = []

    def learn(self, row: Row) -> None:
        """Update the estimate with a search trial."""
        if row.status != "complete" or not all(one.has_first(row) for one in objectives.measured()):
            return
        self._gains.append(_values(row) - _first(row))
        self._front = front([*self._front, row])

    def thresholds(self, budget: float) -> tuple[Accuracy, ...]:
        """Return first-image accuracies: a recipe of this cost below both values of one cannot reach the front.

        Each is the accuracy of a front member that costs no more, minus the mean gain from first to all images, minus a
        margin for its uncertainty. There are none until enough trials are complete, nor if the first images cannot
        estimate an objective.
        """
        names = [objective.short for objective in objectives.measured()]
        members = [_values(row) for row in self._front if row.cost <= budget]
        estimated = all(objective.first for objective in objectives.measured())
        if not members or not estimated or len(self._gains) < _MIN_TRIALS:
            return ()
        gains, accuracies = np.array(self._gains), np.array(members)
        slack = gains.mean(axis=0) + _MARGIN * gains.std(axis=0, ddof=1)
        thresholds = (accuracies[moocore.is_nondominated(-accuracies)] - slack).tolist()
        unlimited = dict.fromkeys(Accuracy._fields, math.inf)
        return tuple(Accuracy(**unlimited | dict(zip(names, threshold, strict=True))) for threshold in thresholds)

    def expected(self, row: Row) -> tuple[float, ...]:
        """Return the expected measured objectives of a stopped row on all images."""
        first = _first(row)
        gains = np.mean(self._gains or [np.zeros_like(first)], axis=0)
        return tuple((first + gains).tolist())


def _values(row: Row) -> np.ndarray:
    return np.array([objective.value(row) for objective in objectives.measured()])


def _first(row: Row) -> np.ndarray:
    return np.array([objective.first_value(row) for objective in objectives.measured()])
