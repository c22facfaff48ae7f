"""The sampler of a sweep: of many candidates the one that is expected to add most to the front's hypervolume.

The worst corner of the hypervolume is half of the best values measured, at the budget.
"""

from typing import Any

import moocore
import numpy as np
import torch
from optuna import Study
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from raycomp import objectives
from raycomp.search.candidates import candidates, most, point, steps
from raycomp.search.surrogate import Surrogate, chosen, expected, predicted
from raycomp.space import Space

_LEAST = 10  # complete trials before the models say anything
_CANDIDATES = 250
_FRONT = 80  # members that stand for a larger front, whose partition would take longer than all else
_TOGETHER = 8  # trials that run, for each further point that is chosen with the next one


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The dimensions of a space, as Optuna has them."""
    return {name: IntDistribution(d.low, d.high, step=d.step) for name, d in space.dimensions.items()}


class SurrogateSampler(BaseSampler):
    """Bayesian optimisation over the recipes of a space that are within the budget."""

    def __init__(self, space: Space, budget: float, surrogate: Surrogate, seed: int) -> None:
        """`surrogate`: the same for all proposals of a sweep, so that it is not fitted for each."""
        self._space, self._budget, self._surrogate, self._seed = space, budget, surrogate, seed
        self._dimensions = list(space.dimensions.values())

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002  Optuna's interface
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """All dimensions of the space."""
        return distributions(self._space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never asked for: all dimensions are drawn together."""
        raise NotImplementedError(param_name)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The most promising point; a random one while little is known, or where all candidates are."""
        del search_space
        if self._surrogate.prefetched:
            return dict(self._surrogate.prefetched.popleft())
        rng = np.random.default_rng(self._seed)
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        done = [one for one in trials if one.state == TrialState.COMPLETE]
        running = [one for one in trials if one.state == TrialState.RUNNING and one.number != trial.number]
        if len(done) < _LEAST:
            return dict(point(self._dimensions, candidates(self._dimensions, np.empty((0, 0)), 1, rng)[0]))
        measured = np.array([one.values for one in done])
        tried = np.array([steps(self._dimensions, one.params) for one in (*done, *running)])
        front = tried[: len(done)][moocore.is_nondominated(objectives.minimised(measured))]
        drawn = candidates(self._dimensions, front, _CANDIDATES, rng)
        seen = set(map(tuple, tried.tolist()))
        points = [point(self._dimensions, one) for one in drawn]
        costs = np.array([self._cost(one) for one in points])
        fresh = [tuple(one) not in seen for one in drawn.tolist()]
        choice = np.flatnonzero((costs <= self._budget) & fresh)
        if not len(choice):
            return dict(points[int(rng.integers(len(points)))])
        spent = np.concatenate([measured[:, -1], [self._cost(one.params) for one in running]])
        best = self._best(
            measured[:, :-1] * objectives.signs()[:-1],
            tried,
            spent,
            drawn[choice],
            costs[choice],
            1 + len(running) // _TOGETHER,
        )
        self._surrogate.prefetched.extend(points[choice[index]] for index in best[1:])
        return dict(points[choice[best[0]]])

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
        """Indices of the best candidates.

        Args:
            accuracy: (T, M - 1), the measured objectives of the complete trials, all to be maximised.
            tried: the trials that are complete, then those that still run.
        """
        limit = most(self._dimensions)
        models = self._surrogate.models(tried / limit, accuracy)
        known = torch.cat([expected(models, tried / limit), torch.from_numpy(-spent / self._budget)[:, None]], dim=1)
        known = _thinned(known)
        corner = torch.tensor([*_worst(accuracy.max(0)), -1.0], dtype=torch.float64)
        mean, deviation = predicted(models, drawn / limit)
        relative = torch.from_numpy(costs / self._budget)
        return chosen(mean, deviation, relative, known, corner, min(count, len(costs)))


def _thinned(known: torch.Tensor) -> torch.Tensor:
    """The front of objectives (T, M), all maximised, the cost last; of a larger one, members evenly spaced by cost."""
    front = known[moocore.is_nondominated(-known.numpy())]
    if len(front) <= _FRONT:
        return front
    spaced = np.linspace(0, len(front) - 1, _FRONT).astype(int)
    return front[front[:, -1].argsort()[spaced]]


def _worst(best: np.ndarray) -> np.ndarray:
    """The worst corner of the measured objectives: half of what is maximised, twice of what is minimised."""
    return np.where(objectives.signs()[:-1] > 0, best / 2, best * 2)
