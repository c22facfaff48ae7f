# SPDX-License-Identifier: Apache-2.0
"""An additive model of what compression costs in accuracy, with a Gaussian process for what is left.

The loss of a recipe is the dense model's accuracy plus a margin, minus its own accuracy; the model predicts the
negative logarithm of it. Effects then multiply: the same move costs more in a recipe that already lost much, which is
what happens, so that moves measured at one budget count at others. Probes, measured on fewer images, deviate by a
smaller model of the same form. All of this is one Gaussian process, so that few trials suffice.

Legend: C points, F features, T trials, D + L coordinates of a place.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from raycomp.search.features import Described

_MARGIN = 0.02  # of mIoU: recipes slightly better than dense are possible
_LEAST_LOSS = 0.004
_ITERATIONS = 40
_SCALE = 0.15  # prior median of the scale of a group of features
_OTHERS = {"rest": 0.06, "length": 2.0, "probe": 0.15, "probe offset": 0.05, "noise": 0.03}
"""Prior medians: scale and length of the remainder, relative deviation and offset of probes, and noise."""
_WIDTHS = {"length": 0.5, "probe": 0.5, "noise": 0.5}  # of the priors of logarithms; 1 for all others

Predict = Callable[[Described], np.ndarray]
"""Maps described points to accuracies (C,)."""


class AdditiveModel:
    """Predicts one measured accuracy of recipes."""

    def __init__(self, groups: Sequence[str]) -> None:
        """`groups`: group of each feature; the features of a group share one scale."""
        names = sorted(set(groups))
        self._group = torch.tensor([names.index(group) for group in groups])
        self._count = len(names)
        medians = [*(_SCALE for _ in names), *_OTHERS.values()]
        self._prior = torch.tensor(medians, dtype=torch.float64).log()
        spread = [*(1.0 for _ in names), *(_WIDTHS.get(name, 1.0) for name in _OTHERS)]
        self._spread = torch.tensor(spread, dtype=torch.float64)
        self._logs = self._prior
        """Logarithms of the hyperparameters: scales of the groups, then `_OTHERS`."""

    def condition(
        self, trials: Described, probes: np.ndarray, accuracy: np.ndarray, dense: float, refit: bool = True
    ) -> None:
        """Condition on trials.

        Args:
            probes: (T,) whether a trial was measured on the probe images.
            accuracy: (T,) in [0, 1].
            dense: accuracy of the dense model.
            refit: whether to fit the hyperparameters again, from where the last fit ended.
        """
        self._top = dense + _MARGIN
        self._features, self._places = torch.from_numpy(trials.features), torch.from_numpy(trials.places)
        self._probes = torch.from_numpy(probes.astype(float))
        target = torch.from_numpy(-np.log(np.maximum(self._top - accuracy, _LEAST_LOSS)))
        self._mean = -np.log(_MARGIN)  # the dense model's
        self._residual = target - self._mean
        if refit:
            solution = minimize(
                self._loss, self._logs.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}
            )
            self._logs = torch.from_numpy(solution.x)
        self._factor = torch.linalg.cholesky(self._covariance(self._logs))
        self._dual = torch.cholesky_solve(self._residual[:, None], self._factor)[:, 0]

    def expected(self, points: Described) -> np.ndarray:
        """Predict the accuracy on all images (C,): the median of its distribution."""
        return self._accuracy(points, self._weights(self._dual), self._dual)

    def interval(self, points: Described, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
        """Return bounds of the accuracy (C,), z standard deviations of the logarithm of the loss from its median."""
        features, places = torch.from_numpy(points.features), torch.from_numpy(points.places)
        scales, rest = self._scales(self._logs), self._logs[self._count].mul(2).exp()
        cross = (features * scales) @ self._features.T + self._rest(self._logs, places, self._places)
        solved = torch.linalg.solve_triangular(self._factor, cross.T, upper=False)
        variance = features.square() @ scales + rest - solved.square().sum(0)
        middle, deviation = self._mean + cross @ self._dual, z * variance.clamp_min(0).sqrt()
        low, high = (self._top - torch.exp(-(middle + sign * deviation)) for sign in (-1, 1))
        return low.numpy(), high.numpy()

    def drawn(self, rng: np.random.Generator, temperature: float) -> Predict:
        """Draw a function from the posterior, with deviations from the expected one scaled by `temperature`.

        Only the additive part is drawn. Matheron's rule turns a draw from the prior into one from the posterior.
        """
        scales = self._scales(self._logs)
        prior = torch.from_numpy(rng.normal(size=len(scales))) * scales.sqrt()
        additive = (self._features * scales) @ self._features.T
        others = self._covariance(self._logs) - additive
        noise = torch.linalg.cholesky(others) @ torch.from_numpy(rng.normal(size=len(others)))
        misfit = self._residual - self._features @ prior - noise
        dual = torch.cholesky_solve(misfit[:, None], self._factor)[:, 0]
        weights = prior + self._weights(dual)
        mixed = self._weights(self._dual) + temperature * (weights - self._weights(self._dual))
        remainder = self._dual + temperature * (dual - self._dual)
        return lambda points: self._accuracy(points, mixed, remainder)

    def _accuracy(self, points: Described, weights: Tensor, dual: Tensor) -> np.ndarray:
        rest = self._rest(self._logs, torch.from_numpy(points.places), self._places)
        value = self._mean + torch.from_numpy(points.features) @ weights + rest @ dual
        return (self._top - torch.exp(-value)).numpy()

    def _weights(self, dual: Tensor) -> Tensor:
        """Return the weights of the features (F,)."""
        return self._scales(self._logs) * (self._features.T @ dual)

    def _scales(self, logs: Tensor) -> Tensor:
        """Return the prior variance of each feature's weight (F,)."""
        return torch.exp(2 * logs[: self._count])[self._group]

    def _rest(self, logs: Tensor, places: Tensor, others: Tensor) -> Tensor:
        """Return the covariance of the remainder between places: a Gaussian of their distance."""
        distance = places.square().sum(1)[:, None] + others.square().sum(1) - 2 * places @ others.T
        return torch.exp(2 * logs[self._count] - distance.clamp_min(0) / 2 * torch.exp(-2 * logs[self._count + 1]))

    def _covariance(self, logs: Tensor) -> Tensor:
        """Return the covariance of the trials (T, T), with noise."""
        probe, offset, noise = torch.exp(2 * logs[self._count + 2 :])
        both = self._probes[:, None] * self._probes
        shared = (self._features * self._scales(logs)) @ self._features.T
        shared = shared + self._rest(logs, self._places, self._places)
        return shared + both * (probe * shared + offset) + noise * torch.eye(len(shared), dtype=torch.float64)

    def _loss(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log posterior of the hyperparameters, up to a constant, and its gradient."""
        logs = torch.tensor(values, requires_grad=True)
        factor, failed = torch.linalg.cholesky_ex(self._covariance(logs))
        if failed:
            return 1e9, np.zeros_like(values)
        white = torch.linalg.solve_triangular(factor, self._residual[:, None], upper=False)
        prior = ((logs - self._prior) / self._spread).square().sum() / 2
        loss = white.square().sum() / 2 + factor.diagonal().log().sum() + prior
        loss.backward()
        assert logs.grad is not None
        return loss.item(), logs.grad.numpy()
