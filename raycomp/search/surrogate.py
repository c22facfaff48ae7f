"""Gaussian processes that predict a recipe's measured objectives, and what a trial is expected to bring.

The cost is known for every recipe, so only the other objectives are modelled. Models are BoTorch's, with the priors
of Hvarfner et al., "Vanilla Bayesian Optimization Performs Great in High Dimensions", ICML 2024; the expected
improvement of the hypervolume is that of Daulton et al., "Differentiable Expected Hypervolume Improvement for Parallel
Multi-Objective Bayesian Optimization", NeurIPS 2020.

Legend: T trials, D dimensions, C candidates, S samples, M objectives, K cells.
"""

import math
import warnings
from collections import deque

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

_GROWTH = 1.4  # trials between two fits, relative
_FITTED = 200  # trials that a fit looks at
_ITERATIONS = 60
_SAMPLES = 32

State = dict[str, Tensor]


class Surrogate:
    """Models of the measured objectives; hyperparameters follow from the trials alone and are kept between asks."""

    def __init__(self) -> None:
        self._fitted_at, self._states = 0, list[State]()
        self.prefetched: deque[dict[str, int]] = deque()
        """Points chosen together with the last one, still to be tried."""

    def models(self, compression: np.ndarray, accuracy: np.ndarray) -> list[SingleTaskGP]:
        """Models given the trials that are complete, of which come first those that ended first.

        Args:
            compression: (T, D) in [0, 1]; where these are more than the accuracies, the others are trials that still
                run, and count as what is expected of them.
            accuracy: (at most T, M - 1), to be maximised.
        """
        X, Y = torch.from_numpy(compression), torch.from_numpy(accuracy)
        done = len(Y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            if (first := _fit_at(done)) != self._fitted_at:
                chosen = np.unique(np.linspace(0, first - 1, min(first, _FITTED)).astype(int))
                self._states = [_fitted(X[chosen], Y[chosen, j : j + 1]) for j in range(Y.shape[1])]
                self._fitted_at = first
            models = self._given(X[:done], Y)
            if done == len(X):
                return models
            return self._given(X, torch.cat([Y, expected(models, compression[done:])]))

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
    """How many trials the fit that is used for so many trials has seen: the same after an interruption."""
    return math.floor(_GROWTH ** math.floor(math.log(trials, _GROWTH) + 1e-9) + 1e-9)


def _fitted(inputs: Tensor, targets: Tensor) -> State:
    """Hyperparameters of most posterior probability; the priors' where no fit succeeds."""
    model = SingleTaskGP(inputs, targets, outcome_transform=Standardize(1))
    try:
        likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
        fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": _ITERATIONS}})
    except ModelFittingError:
        model = SingleTaskGP(inputs, targets, outcome_transform=Standardize(1))
    return {name: value for name, value in model.state_dict().items() if not name.startswith("outcome_transform")}


@torch.no_grad()
def expected(models: list[SingleTaskGP], compression: np.ndarray) -> Tensor:
    """Mean (T, M - 1) of the measured objectives, without the work that deviations are."""
    with skip_posterior_variances():
        return torch.cat([model.posterior(torch.from_numpy(compression)).mean for model in models], dim=1)


@torch.no_grad()
def predicted(models: list[SingleTaskGP], compression: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C, 2) of both accuracies."""
    posteriors = [model.posterior(torch.from_numpy(compression)) for model in models]
    mean = torch.cat([posterior.mean for posterior in posteriors], dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)  # of a recipe that was measured already
        return mean, torch.cat([posterior.variance for posterior in posteriors], dim=1).sqrt()


@torch.no_grad()
def chosen(
    mean: Tensor, deviation: Tensor, cost: Tensor, known: Tensor, reference: Tensor, count: int = 1
) -> list[int]:
    """Candidates that are expected to add most to the hypervolume, each given those before it.

    Args:
        mean: (C, M - 1) of the uncertain objectives, which are maximised.
        deviation: (C, M - 1).
        cost: (C,), the last objective, which is certain, and minimised.
        known: (T, M) objectives of the trials, their cost negated.
        reference: (M,), the worst corner.
        count: how many to choose, at most C.
    """
    front, certain = FastNondominatedPartitioning(ref_point=reference, Y=known), -cost[:, None]
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
    """What each candidate (C, M - 1), (C, M - 1), (C, 1) is expected to add to the hypervolume (C,)."""
    # BoTorch's qExpectedHypervolumeImprovement could replace this, its objective a class that appends the certain cost
    # (a GenericDeterministicModel in the list has no sampler). Tried, 0.18.1 on one core with 250 candidates and these
    # models: the same best candidate, the same 20 best; 19, 24 and 116 ms after 20, 60 and 300 trials, where this takes
    # 19, 30 and 57 with the prediction. qLogExpectedHypervolumeImprovement: also the same, 87 to 316 ms.
    normal = draw_sobol_normal_samples(mean.shape[1], _SAMPLES, seed=0).to(mean)
    drawn = mean + normal[:, None] * deviation  # (S, C, 2)
    objectives = torch.cat([drawn, certain.expand(_SAMPLES, -1, 1)], dim=-1)[:, :, None]  # (S, C, 1, M)
    low, high = front.get_hypercell_bounds()  # (K, M)
    sides = (torch.minimum(objectives, high) - low).clamp_min(0)
    return sides.prod(-1).sum(-1).mean(0)
