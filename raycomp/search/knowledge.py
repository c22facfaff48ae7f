# SPDX-License-Identifier: Apache-2.0
"""What a search knows: models of the mIoUs of all recipes of a space, and the best recipe by them within a cost.

Recipes are ranked by the mean of their mIoUs, as `raycomp pick` ranks them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raycomp import objectives
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.ranges import PRECISION
from raycomp.search.additive import AdditiveModel, Dense
from raycomp.search.features import Described, Features
from raycomp.search.solver import Evaluate, neighbours, solve
from raycomp.search.surrogate import point, steps
from raycomp.space import Params, Space

_GROWTH = 1.2  # ratio of measurements between two fits
_STARTS = 3
_SLIGHTLY_OVER = 1.05  # of the limit
_CAUTION = 1.0  # standard deviations

Point = tuple[int, ...]
"""Steps of compression in each dimension, 0 for none."""
Value = Callable[[Described], np.ndarray]
"""Maps described points to the mean of their mIoUs (C,)."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The mIoUs of a recipe on the images of one stage."""

    point: Point
    probe: bool
    mious: tuple[float, ...]


class Knowledge:
    """Models of the mIoUs, conditioned on what was measured."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.features = Features(space)
        self._dimensions = list(space.dimensions.values())
        self._precision = next((i for i, one in enumerate(self._dimensions) if one.name == PRECISION), None)
        """Column of the precision; None if it does not vary."""
        self._models = [AdditiveModel(self.features.groups) for _ in objectives.mious()]
        self._observed: list[Observation] = []
        self._fitted_at = 0
        self._table = space.latency if isinstance(space.latency, LatencyTable) else None  # else recipes one by one
        self._slow = space.latency is not self._table or any(bound.name == "ms" for bound in space.limits)
        self._loads: dict[tuple[Point, float], float] = {}

    def point(self, params: Params) -> Point:
        """Return the steps of a point of the space."""
        return tuple(steps(self._dimensions, params).tolist())

    def params(self, at: Sequence[int] | np.ndarray) -> Params:
        """Return the canonical parameters of a point."""
        return self.space.canonical(point(self._dimensions, np.asarray(at)))

    def learn(self, observed: Sequence[Observation]) -> None:
        """Condition the models on all observations, in order.

        The hyperparameters are fitted to as many of the first ones as a function of their number says, so that a
        resumed search has the same.
        """
        if list(observed) == self._observed:
            return
        self._observed = list(observed)
        fit_at = math.floor(_GROWTH ** math.floor(math.log(len(observed), _GROWTH) + 1e-9) + 1e-9)
        if fit_at != self._fitted_at:
            self._condition(self._observed[:fit_at], refit=True)
            self._fitted_at = fit_at
        self._condition(self._observed, refit=False)

    def _condition(self, observed: Sequence[Observation], refit: bool) -> None:
        trials = self.features(np.array([one.point for one in observed]))
        probes = np.array([one.probe for one in observed])
        mious = np.array([one.mious for one in observed])
        dense = _dense_mious(observed)
        for index, model in enumerate(self._models):
            model.condition(trials, probes, mious[:, index], dense[index], refit)

    def expected(self, points: Described) -> np.ndarray:
        """Predict the mean of the mIoUs (C,)."""
        return np.mean([model.expected(points) for model in self._models], axis=0)

    def cautious(self, points: Described) -> np.ndarray:
        """Return a lower bound of the mean of the mIoUs (C,), one standard deviation below."""
        return np.mean([model.interval(points, _CAUTION)[0] for model in self._models], axis=0)

    def mious(self, at: Sequence[int]) -> list[tuple[float, float, float]]:
        """Predict each mIoU of a point, with the bounds of its 95 % interval: (expected, low, high)."""
        described = self.features(np.array([at]))
        bounds = [(model.expected(described), *model.interval(described)) for model in self._models]
        return [(float(middle[0]), float(low[0]), float(high[0])) for middle, low, high in bounds]

    def drawn(self, rng: np.random.Generator, temperature: float) -> Value:
        """Draw a function that may be the mean of the mIoUs; see `AdditiveModel.drawn`."""
        functions = [model.drawn(rng, temperature) for model in self._models]
        return lambda points: np.mean([function(points) for function in functions], axis=0)

    def best(self, value: Value, budget: float, taken: Callable[[Point], bool], thorough: bool = True) -> Point | None:
        """Return the best point within the budget and the limits of the space that is not taken; None if there is none.

        The search starts from the best measured recipes within them, of which the cheapest point counts as one, and
        from the best one slightly over them, projected onto them: uniform recipes may lie between the points of the
        grid, and the nearest points cost a little more. If few are within, it starts from the best of all others,
        projected. If the precision varies, it starts from the same points in the other precision, too, since a climb
        does not change it: INT8 first loses accuracy, and less compression regains more than that only in many steps.
        Where times are predicted one by one, which takes long, it starts from the best of these in each precision. If
        the best point is taken, its best neighbour is returned, or the best measured recipe that is not taken if that
        is better.

        Args:
            value: What to maximise.
            budget: Maximum cost, in the unit of `Space.cost`.
            thorough: See `solve`.
        """
        evaluate = self.evaluator(value, budget)
        known = np.array(sorted({one.point for one in self._observed} | {self.point(self.space.cheapest)}))
        values, loads = evaluate(known)
        order = np.argsort(-values, kind="stable")
        starts = [known[index] for index in order if loads[index] <= 1][:_STARTS]
        over = [index for index in order if loads[index] > 1]
        slightly = [index for index in over if loads[index] <= _SLIGHTLY_OVER]
        others = over if len(starts) < _STARTS else slightly[:1]
        onto = (self._projected(known[index], budget) for index in others[:_STARTS])
        starts += [at for at in onto if evaluate(at[None])[1] <= 1]
        if not starts:
            return None
        starts = self._in_both_precisions(starts, evaluate)
        if self._slow:  # a climb takes seconds
            starts = self._best_in_each_precision(starts, evaluate)
        solution, _ = solve(evaluate, self.features.limits, starts, thorough)
        if not taken(self._canonical(solution)):
            return self._canonical(solution)
        near = np.concatenate([neighbours(solution, self.features.limits), known])
        values, loads = evaluate(near)
        for index in np.argsort(-np.where(loads <= 1, values, -np.inf), kind="stable"):
            if loads[index] > 1:
                return None
            if not taken(candidate := self._canonical(near[index])):
                return candidate
        return None

    def _in_both_precisions(self, starts: list[np.ndarray], evaluate: Evaluate) -> list[np.ndarray]:
        """Add the starts in the other precision that are within the limits."""
        if self._precision is None:
            return starts
        others = np.array(starts)
        others[:, self._precision] = 1 - others[:, self._precision]
        return [*starts, *others[evaluate(others)[1] <= 1]]

    def _best_in_each_precision(self, starts: list[np.ndarray], evaluate: Evaluate) -> list[np.ndarray]:
        """Return the best start, or that of each precision if it varies."""
        values, best = evaluate(np.array(starts))[0], dict[int, int]()
        for index in np.argsort(-values, kind="stable").tolist():
            best.setdefault(0 if self._precision is None else int(starts[index][self._precision]), index)
        return [starts[index] for index in best.values()]

    def _projected(self, at: np.ndarray, budget: float) -> np.ndarray:
        """Project a point onto the limits, as far as that is possible."""
        return np.array(self.point(self.space.project(self.params(at), budget)))

    def _canonical(self, at: np.ndarray) -> Point:
        return self.point(self.params(at))

    def evaluator(self, value: Value, budget: float) -> Evaluate:
        """Return a function of points (C, D): their values (C,), and their costs relative to the limits (C,)."""
        alone = self.space.latency is not self._table

        def evaluate(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            described = self.features(points)
            if self._table is not None:
                loads = self._times(self._table, points) / budget
            else:
                loads = np.zeros(len(points)) if alone else described.gflops / budget
            if alone or self.space.limits:
                loads = np.maximum(loads, self._slow_loads(points.tolist(), budget, alone))
            return value(described), loads

        return evaluate

    def _times(self, table: LatencyTable, points: np.ndarray) -> np.ndarray:
        """Predict the milliseconds of points (C, D)."""
        work = self.features.costs.work(points)
        if self._precision is None:
            return table.of_work(work, self.space.config.precision[0])
        quantised = points[:, self._precision] > 0
        return np.where(quantised, table.of_work(work, "int8"), table.of_work(work, "fp32"))

    def _slow_loads(self, points: Iterable[list[int]], budget: float, timed: bool) -> np.ndarray:
        """Return the loads of points (C,), of the limits alone unless `timed`; they are kept, as they take long."""
        found = []
        for at in points:
            key = tuple(at), budget
            if key not in self._loads:
                recipe = self.space.recipe(self.params(at))
                self._loads[key] = self.space.load(recipe, budget) if timed else self.space.limits_load(recipe)
            found.append(self._loads[key])
        return np.array(found)


def _dense_mious(observed: Sequence[Observation]) -> list[Dense]:
    """Return each mIoU of the dense model; if it was not measured in a stage, the largest one of that stage."""
    of_stage = dict[bool, np.ndarray]()
    for probe in (False, True):
        mious = [one.mious for one in observed if one.probe == probe]
        own = [one.mious for one in observed if one.probe == probe and not any(one.point)]
        if mious:
            of_stage[probe] = np.max(own or mious, axis=0)
    whole, probed = (of_stage.get(probe, of_stage.get(not probe)) for probe in (False, True))
    assert whole is not None
    assert probed is not None
    return [Dense(*pair) for pair in zip(whole.tolist(), probed.tolist(), strict=True)]
