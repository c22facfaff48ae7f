# SPDX-License-Identifier: Apache-2.0
"""An additive model of what compression costs in accuracy, with a Gaussian process for what is left.

The loss of a recipe is the dense model's accuracy plus a margin, minus its own accuracy; the model predicts the
negative logarithm of it. Effects then multiply: the same move costs more in a recipe that already lost much, which is
what happens, so that moves measured at one budget count at others. Probes, measured on fewer images, deviate by a
smaller model of the same form. All of this is one Gaussian process, so that few trials suffice.

Legend: C points, F features, T trials, D + L coordinates of a place.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from raycomp.search.features import Described

_MARGIN = 0.02  # of mIoU: recipes slightly better than dense are possible
_LEAST_LOSS = 0.004
_ITERATIONS = 40
_WAVES = 512  # of a draw of the remainder
_SCALE = 0.05  # prior median of the scale of a group of features
_OTHERS = {"rest": 0.06, "length": 2.0, "probe": 0.15, "probe offset": 0.05, "noise": 0.03}
"""Prior medians: scale and length of the remainder, relative deviation and offset of probes, and noise."""
_WIDTHS = {"length": 0.5, "probe": 0.5, "noise": 0.5}  # of the priors of logarithms; 1 for all others

Predict = Callable[[Described], np.ndarray]
"""Maps described points to accuracies (C,)."""


class Dense(NamedTuple):
    """Accuracies of the dense model, in [0, 1]."""

    whole: float
    """On all images of a trial."""
    probe: float
    """On those of a probe, which may be easier or harder."""


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
        self, trials: Described, probes: np.ndarray, accuracy: np.ndarray, dense: Dense, refit: bool = True
    ) -> None:
        """Condition on trials.

        Args:
            probes: (T,) whether a trial was measured on the probe images.
            accuracy: (T,) in [0, 1].
            dense: accuracies of the dense model.
            refit: whether to fit the hyperparameters again.
        """
        self._top = dense.whole + _MARGIN
        tops = np.where(probes, dense.probe + _MARGIN, self._top)
        self._features, self._places = torch.from_numpy(trials.features), torch.from_numpy(trials.places)
        self._probes = torch.from_numpy(probes.astype(float))
        target = torch.from_numpy(-np.log(np.maximum(tops - accuracy, _LEAST_LOSS)))
        self._mean = -np.log(_MARGIN)  # the dense model's
        self._residual = target - self._mean
        if refit:
            solution = minimize(
                self._loss, self._prior.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}
            )
            self._logs = torch.from_numpy(solution.x)
        self._factor = torch.linalg.cholesky(self._covariance(self._logs))
        self._dual = torch.cholesky_solve(self._residual[:, None], self._factor)[:, 0]

    def expected(self, points: Described) -> np.ndarray:
        """Predict the accuracy on all images (C,): the median of its distribution."""
        middle = self._mean + self._cross(points) @ self._dual
        return (self._top - torch.exp(-middle)).numpy()

    def interval(self, points: Described, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
        """Return bounds of the accuracy (C,), z standard deviations of the logarithm of the loss from its median."""
        cross, features = self._cross(points), torch.from_numpy(points.features)
        scales, rest = self._scales(self._logs), self._logs[self._count].mul(2).exp()
        solved = torch.linalg.solve_triangular(self._factor, cross.T, upper=False)
        variance = features.square() @ scales + rest - solved.square().sum(0)
        middle, deviation = self._mean + cross @ self._dual, z * variance.clamp_min(0).sqrt()
        low, high = (self._top - torch.exp(-(middle + sign * deviation)) for sign in (-1, 1))
        return low.numpy(), high.numpy()

    def drawn(self, rng: np.random.Generator, temperature: float) -> Predict:
        """Draw a function from the posterior, with deviations from the expected one scaled by `temperature`.

        Matheron's rule turns a draw from the prior into one from the posterior. The prior of the remainder is drawn by
        random Fourier features (Rahimi and Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007).
        """
        scales = self._scales(self._logs)
        weights = torch.from_numpy(rng.normal(size=len(scales))) * scales.sqrt()
        rest, length = torch.exp(self._logs[self._count : self._count + 2]).tolist()
        frequencies = torch.from_numpy(rng.normal(size=(self._places.shape[1], _WAVES)) / length)
        phases = torch.from_numpy(rng.uniform(0, 2 * math.pi, _WAVES))
        amplitudes = torch.from_numpy(rng.normal(size=_WAVES)) * (rest * (2 / _WAVES) ** 0.5)

        def remainder(places: Tensor) -> Tensor:
            return torch.cos(places @ frequencies + phases) @ amplitudes

        shared = self._shared(self._logs)
        others = torch.linalg.cholesky(self._covariance(self._logs) - shared)
        error = others @ torch.from_numpy(rng.normal(size=len(others)))
        misfit = self._residual - self._features @ weights - remainder(self._places) - error
        dual = torch.cholesky_solve(misfit[:, None], self._factor)[:, 0]

        def predict(points: Described) -> np.ndarray:
            features, places = torch.from_numpy(points.features), torch.from_numpy(points.places)
            prior = features @ weights + remainder(places)
            value = self._cross(points) @ (self._dual + temperature * (dual - self._dual)) + temperature * prior
            return (self._top - torch.exp(-self._mean - value)).numpy()

        return predict

    def _cross(self, points: Described) -> Tensor:
        """Return the covariance of the values of points with the trials (C, T)."""
        additive = (torch.from_numpy(points.features) * self._scales(self._logs)) @ self._features.T
        return additive + self._rest(self._logs, torch.from_numpy(points.places), self._places)

    def _shared(self, logs: Tensor) -> Tensor:
        """Return the covariance (T, T) of the true values of the trials."""
        additive = (self._features * self._scales(logs)) @ self._features.T
        return additive + self._rest(logs, self._places, self._places)

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
        shared = self._shared(logs)
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
