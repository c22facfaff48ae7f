# SPDX-License-Identifier: Apache-2.0
"""Predict a trial's objectives from its first images, learning from trials measured on all images.

A trial gains or loses when it is measured on all images instead of the first ones. Similar recipes gain similarly,
since they are measured on the same images. So a recipe is compared with a front member on the first images, and the
margin is how much the gains of the trials most like that member differ from its own.
"""

import math

import moocore
import numpy as np

from raycomp import objectives
from raycomp.evaluate.miou import Accuracy
from raycomp.results.pareto import front
from raycomp.results.row import Row

_MIN_TRIALS = 10  # complete trials needed before any threshold is set
_NEAREST = 8  # trials whose gains are compared
_MARGIN = 2.0  # root mean squares of the differences in gain


class EarlyStopping:
    """Estimates how the measured objectives change from the first images to all images."""

    def __init__(self) -> None:
        self._firsts: list[np.ndarray] = []
        self._gains: list[np.ndarray] = []
        self._front: list[Row] = []

    def learn(self, row: Row) -> None:
        """Update the estimate with a search trial."""
        if row.status != "complete" or not all(one.has_first(row) for one in objectives.measured()):
            return
        self._firsts.append(_first(row))
        self._gains.append(_values(row) - _first(row))
        self._front = front([*self._front, row])

    def thresholds(self, budget: float) -> tuple[Accuracy, ...]:
        """Return first-image accuracies: a recipe of this cost below both values of one cannot reach the front.

        Each is the first-image accuracy of a front member that costs no more, minus a margin for how differently a
        similar recipe may gain. There are none until enough trials are complete, nor if the first images cannot
        estimate an objective.
        """
        measured = objectives.measured()
        members = [row for row in self._front if row.cost <= budget]
        if not members or not all(one.first for one in measured) or len(self._gains) < _MIN_TRIALS:
            return ()
        accuracies = np.array([_values(row) for row in members])
        best = moocore.is_nondominated(-accuracies)
        thresholds = [self._threshold(row) for row, undominated in zip(members, best, strict=True) if undominated]
        unlimited = dict.fromkeys(Accuracy._fields, math.inf)
        names = [objective.short for objective in measured]
        return tuple(Accuracy(**unlimited | dict(zip(names, values, strict=True))) for values in thresholds)

    def expected(self, row: Row) -> tuple[float, ...]:
        """Return the expected measured objectives of a stopped row on all images."""
        first = _first(row)
        gains = self._gains_near(first).mean(axis=0) if self._gains else np.zeros_like(first)
        return tuple((first + gains).tolist())

    def _threshold(self, member: Row) -> list[float]:
        first = _first(member)
        differences = self._gains_near(first) - (_values(member) - first)
        margin = _MARGIN * np.sqrt((differences**2).sum(axis=0) / (len(differences) - 1))  # the member is one of them
        return [float(value) for value in first - margin]

    def _gains_near(self, first: np.ndarray) -> np.ndarray:
        """Return the gains (at most `_NEAREST` + 1, objectives) of the trials nearest on the first images."""
        distances = np.abs(np.array(self._firsts) - first).sum(axis=1)
        return np.array(self._gains)[distances.argsort(kind="stable")[: _NEAREST + 1]]


def _values(row: Row) -> np.ndarray:
    return np.array([objective.value(row) for objective in objectives.measured()])


def _first(row: Row) -> np.ndarray:
    return np.array([objective.first_value(row) for objective in objectives.measured()])
