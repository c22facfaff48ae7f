# SPDX-License-Identifier: Apache-2.0
"""Optuna samplers of a sweep: Bayesian optimisation by expected hypervolume improvement, and TPE over a fixed space.

The reference point of the hypervolume is half the best measured values, at the budget.

The trials of long sweeps are condensed: Optuna's TPE reads every trial at every ask, but models the few best against
all others, whose density hardly depends on their number. An ask then costs the same after 5,000 trials as after 600.
"""

from collections.abc import Sequence
from typing import Any

import moocore
import numpy as np
import torch
from optuna import Study
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from raycomp import objectives
from raycomp.results.row import Row
from raycomp.search.surrogate import Surrogate, candidates, choose, expected, max_steps, point, predicted, steps
from raycomp.space import Params, Space

_OFF_GRID = 0.05  # maximum relative difference in cost between a recipe and its grid point
_MIN_TRIALS = 10  # complete trials before the models are used
_CANDIDATES = 250
_MAX_FRONT = 80  # larger fronts are thinned to this size, as partitioning them would dominate the cost of an ask
_RUNNING_PER_POINT = 8  # running trials for each extra point chosen together with the next one
FULL = 600
"""Number of trials that are condensed to `KEPT`."""
KEPT = 300


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the dimensions of a space as Optuna distributions."""
    return {name: IntDistribution(d.low, d.high, step=d.step) for name, d in space.dimensions.items()}


def grid_point(space: Space, row: Row) -> Params | None:
    """Return the grid point nearest to a row's recipe; None if its cost differs by more than `_OFF_GRID`."""
    params = space.params(row.recipe)
    return params if abs(space.cost(space.recipe(params)) / row.cost - 1) <= _OFF_GRID else None


class SurrogateSampler(BaseSampler):
    """Bayesian optimisation over the recipes of a space within the budget."""

    def __init__(self, space: Space, budget: float, surrogate: Surrogate, seed: int) -> None:
        """`surrogate`: shared by all proposals of a sweep, so that it is not refitted for each."""
        self._space, self._budget, self._surrogate, self._seed = space, budget, surrogate, seed
        self._dimensions = list(space.dimensions.values())

    def infer_relative_search_space(self, *_: Any, **__: Any) -> dict[str, BaseDistribution]:
        """Return all dimensions of the space."""
        return distributions(self._space)

    def sample_independent(self, *_: Any, **__: Any) -> Any:
        """Raise an error: all dimensions are sampled together."""
        raise NotImplementedError

    def sample_relative(self, study: Study, trial: FrozenTrial, *_: Any, **__: Any) -> dict[str, Any]:
        """Return the most promising point; a random one before enough trials, or if no candidate is eligible."""
        if self._surrogate.prefetched:
            return dict(self._surrogate.prefetched.popleft())
        rng = np.random.default_rng(self._seed)
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        complete = [one for one in trials if one.state == TrialState.COMPLETE]
        running = [one for one in trials if one.state == TrialState.RUNNING and one.number != trial.number]
        if len(complete) < _MIN_TRIALS:
            return dict(point(self._dimensions, candidates(self._dimensions, np.empty((0, 0)), 1, rng)[0]))
        measured = np.array([one.values for one in complete])
        tried = np.array([steps(self._dimensions, one.params) for one in (*complete, *running)])
        front = tried[: len(complete)][moocore.is_nondominated(objectives.minimised(measured))]
        drawn = candidates(self._dimensions, front, _CANDIDATES, rng)
        seen = set(map(tuple, tried.tolist()))
        points = [self._space.canonical(point(self._dimensions, one)) for one in drawn]
        drawn = np.array([steps(self._dimensions, one) for one in points])
        costs = np.array([self._cost(one) for one in points])
        untried = [tuple(one) not in seen for one in drawn.tolist()]
        limited = self._space.limits  # without any, no recipe has to be built
        kept = np.array([not limited or self._space.keeps_limits(self._space.recipe(one)) for one in points])
        eligible = np.flatnonzero((costs <= self._budget) & kept & untried)
        if not len(eligible):
            return dict(points[int(rng.integers(len(points)))])
        spent = np.concatenate([measured[:, -1], [self._cost(one.params) for one in running]])
        accuracy, count = measured[:, :-1] * objectives.signs()[:-1], 1 + len(running) // _RUNNING_PER_POINT
        best = self._best(accuracy, tried, spent, drawn[eligible], costs[eligible], count)
        self._surrogate.prefetched.extend(points[eligible[index]] for index in best[1:])
        return dict(points[eligible[best[0]]])

    def _cost(self, params: dict[str, Any]) -> float:
        return self._space.cost(self._space.recipe(params))

    def _best(
        self,
        accuracy: np.ndarray,
        tried: np.ndarray,
        spent: np.ndarray,
        drawn: np.ndarray,
        costs: np.ndarray,
        count: int,
    ) -> list[int]:
        """Return the indices of the best `count` candidates.

        Args:
            accuracy: (T, M - 1) measured objectives of the complete trials, all maximised.
            tried: (at least T, D) points of the complete trials, then of the running ones.
            spent: Costs of these trials.
            drawn: (C, D) candidates.
            costs: (C,) costs of the candidates.
        """
        limit = max_steps(self._dimensions)
        models = self._surrogate.models(tried / limit, accuracy)
        accuracies, certain = expected(models, tried / limit), torch.from_numpy(-spent / self._budget)[:, None]
        front = _thinned(torch.cat([accuracies, certain], dim=1))
        best = accuracy.max(0)
        worst = np.where(objectives.signs()[:-1] > 0, best / 2, best * 2)  # half the best if maximised, else twice
        corner = torch.tensor([*worst, -1.0], dtype=torch.float64)
        mean, deviation = predicted(models, drawn / limit)
        relative = torch.from_numpy(costs / self._budget)
        return choose(mean, deviation, relative, front, corner, min(count, len(costs)))


def _thinned(points: torch.Tensor) -> torch.Tensor:
    """Return the front of points (T, M), all maximised, cost last; thin a large front to members spaced by cost."""
    front = points[moocore.is_nondominated(-points.numpy())]
    if len(front) <= _MAX_FRONT:
        return front
    spaced = np.linspace(0, len(front) - 1, _MAX_FRONT).astype(int)
    return front[front[:, -1].argsort()[spaced]]


def condensed(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Keep `KEPT` trials in order: half the best by non-dominated rank, half evenly spaced among the others."""
    points = objectives.minimised([trial.values for trial in trials])
    by_rank = np.argsort(moocore.pareto_rank(points), kind="stable")
    best, others = by_rank[: KEPT // 2], np.sort(by_rank[KEPT // 2 :])
    spaced = others[np.linspace(0, len(others) - 1, KEPT - KEPT // 2).astype(int)]
    return [trials[index] for index in sorted({*best.tolist(), *spaced.tolist()})]


class FixedSpaceTPE(TPESampler):
    """Multivariate TPE over a fixed space, which Optuna would infer again from all trials after each reseeding."""

    def __init__(self, space: dict[str, BaseDistribution], seed: int) -> None:
        super().__init__(multivariate=True, constant_liar=True, n_startup_trials=8, seed=seed)
        self._fixed = {name: space[name] for name in sorted(space) if not space[name].single()}

    def infer_relative_search_space(self, *_: Any, **__: Any) -> dict[str, BaseDistribution]:
        """Return all parameters, in the order in which Optuna would infer them."""
        return self._fixed
