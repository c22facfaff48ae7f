# SPDX-License-Identifier: Apache-2.0
"""Gaussian processes for a recipe's measured objectives, expected hypervolume improvement, and candidates for it.

The cost of every recipe is known, so only the other objectives are modelled. Models are BoTorch's, with the priors
of Hvarfner et al., "Vanilla Bayesian Optimization Performs Great in High Dimensions", ICML 2024; the expected
improvement of the hypervolume is that of Daulton et al., "Differentiable Expected Hypervolume Improvement for Parallel
Multi-Objective Bayesian Optimization", NeurIPS 2020.

Candidates are relatives of the front, and schedules that vary linearly with depth. A grid point is written as its steps
of compression in each dimension, 0 for none.

Legend: T trials, D dimensions, C candidates, S samples, M objectives, K cells.
"""

import math
import warnings
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.exceptions.warnings import BotorchWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Standardize
from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
from botorch.utils.sampling import draw_sobol_normal_samples
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.settings import skip_posterior_variances
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from raycomp.dimension import Dimension
from raycomp.space import Params

_GROWTH = 1.4  # ratio of trials between two fits
_MAX_FITTED = 200  # trials used in a fit
_ITERATIONS = 60
_SAMPLES = 32
_SCHEDULES = 0.15  # share of candidates that are new schedules instead of relatives of the front
_CROSSED, _MUTATED = 0.35, 0.7  # shares of the relatives; some are both
_LEFT_FULL = 0.25  # probability that a schedule leaves a kind of dimension uncompressed
_WHOLE_KIND = 0.3  # probability that a mutation moves all dimensions of a kind together
_SPREAD, _KIND_SPREAD = 0.25, 0.15  # standard deviations of moves, as shares of the range
_MOVED = 0.25  # parameter of the geometric distribution of the number of moved dimensions

State = dict[str, Tensor]


class Surrogate:
    """Models of the measured objectives. Hyperparameters depend on the trials alone and are kept between asks."""

    def __init__(self) -> None:
        self._fitted_at, self._states = 0, list[State]()
        self.prefetched: deque[dict[str, int]] = deque()
        """Points chosen together with the last one and not tried yet."""

    def models(self, compression: np.ndarray, accuracy: np.ndarray) -> list[SingleTaskGP]:
        """Condition the models on completed trials, in completion order, and on running ones.

        Args:
            compression: (T, D) in [0, 1]. Rows beyond those of `accuracy` are running trials, for which the models'
                expected accuracy is used.
            accuracy: (at most T, M - 1), maximised.
        """
        X, Y = torch.from_numpy(compression), torch.from_numpy(accuracy)
        complete = len(Y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            if (first := _fit_at(complete)) != self._fitted_at:
                chosen = np.unique(np.linspace(0, first - 1, min(first, _MAX_FITTED)).astype(int))
                self._states = [_fitted(X[chosen], Y[chosen, j : j + 1]) for j in range(Y.shape[1])]
                self._fitted_at = first
            models = self._given(X[:complete], Y)
            if complete == len(X):
                return models
            return self._given(X, torch.cat([Y, expected(models, compression[complete:])]))

    def _given(self, inputs: Tensor, targets: Tensor) -> list[SingleTaskGP]:
        models = [
            SingleTaskGP(inputs, targets[:, j : j + 1], outcome_transform=Standardize(1))
            for j in range(targets.shape[1])
        ]
        for model, state in zip(models, self._states, strict=True):
            model.load_state_dict({**model.state_dict(), **state})
            model.eval()
        return models


def _fit_at(trials: int) -> int:
    """Return how many of the first trials to fit on: a function of their number, so that a resumed sweep agrees."""
    return math.floor(_GROWTH ** math.floor(math.log(trials, _GROWTH) + 1e-9) + 1e-9)


def _fitted(inputs: Tensor, targets: Tensor) -> State:
    """Return the maximum a posteriori hyperparameters, or those of the priors if no fit succeeds."""
    model = SingleTaskGP(inputs, targets, outcome_transform=Standardize(1))
    try:
        likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
        fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": _ITERATIONS}})
    except ModelFittingError:
        model = SingleTaskGP(inputs, targets, outcome_transform=Standardize(1))
    return {name: value for name, value in model.state_dict().items() if not name.startswith("outcome_transform")}


@torch.no_grad()
def expected(models: list[SingleTaskGP], compression: np.ndarray) -> Tensor:
    """Predict the mean (T, M - 1) of the measured objectives; deviations, which cost more, are skipped."""
    with skip_posterior_variances():
        return torch.cat([model.posterior(torch.from_numpy(compression)).mean for model in models], dim=1)


@torch.no_grad()
def predicted(models: list[SingleTaskGP], compression: np.ndarray) -> tuple[Tensor, Tensor]:
    """Predict mean and standard deviation (C, M - 1) of the measured objectives."""
    posteriors = [model.posterior(torch.from_numpy(compression)) for model in models]
    mean = torch.cat([posterior.mean for posterior in posteriors], dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)  # raised for recipes that were already measured
        return mean, torch.cat([posterior.variance for posterior in posteriors], dim=1).sqrt()


@torch.no_grad()
def choose(
    mean: Tensor, deviation: Tensor, cost: Tensor, points: Tensor, reference: Tensor, count: int = 1
) -> list[int]:
    """Choose candidates by expected hypervolume improvement, each conditioned on those chosen before.

    Args:
        mean: (C, M - 1) of the uncertain objectives, maximised.
        deviation: (C, M - 1).
        cost: (C,), the last objective, which is certain and minimised.
        points: (T, M) objectives of the trials, with negated cost.
        reference: (M,) reference point.
        count: Number of candidates to choose, at most C.
    """
    front, certain = FastNondominatedPartitioning(ref_point=reference, Y=points), -cost[:, None]
    indices: list[int] = []
    while len(indices) < count:
        gains = expected_improvement(mean, deviation, certain, front)
        gains = gains if gains.max() > 0 else mean.sum(1) - 1e3
        gains[indices] = -torch.inf
        indices.append(int(gains.argmax()))
        if len(indices) < count:
            front.update(torch.cat([mean, certain], dim=1)[indices[-1:]])
    return indices


@torch.no_grad()
def expected_improvement(
    mean: Tensor, deviation: Tensor, certain: Tensor, front: FastNondominatedPartitioning
) -> Tensor:
    """Return each candidate's expected gain in hypervolume (C,), from (C, M - 1), (C, M - 1) and (C, 1)."""
    # BoTorch's qExpectedHypervolumeImprovement ranks the same 20 of 250 candidates best, but takes 116 ms after 300
    # trials on one core, against 57 ms here (0.18.1, prediction included); the qLog variant takes 316 ms.
    normal = draw_sobol_normal_samples(mean.shape[1], _SAMPLES, seed=0).to(mean)
    drawn = mean + normal[:, None] * deviation  # (S, C, 2)
    objectives = torch.cat([drawn, certain.expand(_SAMPLES, -1, 1)], dim=-1)[:, :, None]  # (S, C, 1, M)
    low, high = front.get_hypercell_bounds()  # (K, M)
    sides = (torch.minimum(objectives, high) - low).clamp_min(0)
    return sides.prod(-1).sum(-1).mean(0)


def steps(dimensions: Sequence[Dimension], params: Params) -> np.ndarray:
    """Return the steps of compression (D,) of a point."""
    return np.array([abs(params[d.name] - d.full) // d.step for d in dimensions])


def point(dimensions: Sequence[Dimension], compression: np.ndarray) -> Params:
    """Return the point with these steps of compression (D,)."""
    signs = [-1 if d.full == d.high else 1 for d in dimensions]
    return {d.name: d.full + s * int(n) * d.step for d, s, n in zip(dimensions, signs, compression, strict=True)}


def max_steps(dimensions: Sequence[Dimension]) -> np.ndarray:
    """Return the maximum steps of compression (D,)."""
    return np.array([(d.high - d.low) // d.step for d in dimensions])


def candidates(dimensions: Sequence[Dimension], front: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most `count` distinct candidates (C, D).

    Args:
        front: (F, D) points of the front; may be empty.
    """
    # BoTorch 0.18 has no equivalent: `optimize_acqf_discrete` takes its candidates as an argument, and
    # `optimize_acqf_discrete_local_search` moves one dimension at a time and supports linear constraints only.
    kinds: dict[str, list[int]] = {}
    for index, dimension in enumerate(dimensions):
        kinds.setdefault(dimension.name.partition("_")[0], []).append(index)
    groups, limit = [np.array(group) for group in kinds.values()], max_steps(dimensions)
    drawn = [
        _schedule(groups, limit, rng)
        if not len(front) or rng.random() < _SCHEDULES
        else _relative(groups, limit, front, rng)
        for _ in range(count)
    ]
    return np.unique(np.array(drawn), axis=0)


def _schedule(groups: Sequence[np.ndarray], limit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compress every kind of dimension by a share that varies linearly with depth."""
    share = np.zeros(len(limit))
    for group in groups:
        if rng.random() >= _LEFT_FULL:
            first, last = rng.random(2) ** 1.5
            share[group] = np.linspace(first, last, len(group)) * rng.uniform(0.7, 1.3, len(group))
    return np.clip(np.round(share * limit), 0, limit).astype(int)


def _relative(
    groups: Sequence[np.ndarray], limit: np.ndarray, front: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Cross a member of the front with another, or mutate it, or both."""
    child = front[int(rng.integers(len(front)))].copy()
    draw = rng.random()
    if draw < _CROSSED:
        other = front[int(rng.integers(len(front)))]
        child = np.where(rng.random(len(child)) < rng.random(), other, child)
    if draw > 1 - _MUTATED:
        if rng.random() < _WHOLE_KIND:
            group = groups[int(rng.integers(len(groups)))]
            child[group] += np.round(rng.normal(0, _KIND_SPREAD) * limit[group]).astype(int)
        moved = rng.choice(len(child), min(1 + rng.geometric(_MOVED), len(child)), replace=False)
        move = np.round(rng.normal(0, _SPREAD, len(moved)) * limit[moved]).astype(int)
        child[moved] += np.where(move == 0, rng.choice([-1, 1], len(moved)), move)
    return np.clip(child, 0, limit)
