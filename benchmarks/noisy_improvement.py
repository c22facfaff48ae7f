# SPDX-License-Identifier: Apache-2.0
"""Compare the acquisition function of `gp` with BoTorch's, over the same models and candidates.

    python benchmarks/noisy_improvement.py        # the formula, 50 trials, three seeds: 6 minutes

BoTorch's is qLogNoisyExpectedHypervolumeImprovement, maximised by `optimize_acqf_discrete`. Costs are known, so they
enter as a deterministic model. Prints the hypervolume at the milestones and the time of an ask, as `search.py` does.
"""

from collections.abc import Iterable
from typing import Annotated
from unittest.mock import patch

import numpy as np
import optuna
import torch
import typer
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.models import ModelList
from botorch.models.deterministic import GenericDeterministicModel
from botorch.optim.optimize import optimize_acqf_discrete
from torch import Tensor

from raycomp.recipe import dense
from raycomp.search.sampler import SurrogateSampler
from raycomp.search.surrogate import max_steps
from search import ARMS, Run, report
from trial_functions import Formula

_DIGITS = 6  # of compressions, to find the cost of a point


def costs_of(points: np.ndarray, costs: Iterable[float]) -> GenericDeterministicModel:
    """Return a model of the negated costs of known points (C, D)."""
    known = {tuple(one): cost for one, cost in zip(points.round(_DIGITS).tolist(), costs, strict=True)}

    def negated(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).numpy().round(_DIGITS).tolist()
        return -torch.tensor([known[tuple(one)] for one in rows], dtype=x.dtype).reshape(*x.shape[:-1], 1)

    return GenericDeterministicModel(negated)


def best(
    self: SurrogateSampler,
    accuracy: np.ndarray,
    tried: np.ndarray,
    spent: np.ndarray,
    drawn: np.ndarray,
    costs: np.ndarray,
    count: int,
) -> list[int]:
    """Return the index of the best candidate; see `SurrogateSampler._best`."""
    del count  # one trial runs at a time
    limit = max_steps(self._dimensions)
    before, offered = torch.from_numpy(tried / limit), torch.from_numpy(drawn / limit)
    known = costs_of(np.concatenate([tried, drawn]) / limit, np.concatenate([spent, costs]) / self._budget)
    improvement = qLogNoisyExpectedHypervolumeImprovement(
        model=ModelList(*self._surrogate.models(tried / limit, accuracy), known),
        ref_point=[*(accuracy.max(0) / 2).tolist(), -1.0],
        X_baseline=before,
        prune_baseline=True,
        cache_root=False,  # which needs one Gaussian process of all objectives
    )
    chosen, _ = optimize_acqf_discrete(improvement, q=1, choices=offered, max_batch_size=64)
    return [int((offered - chosen[0]).abs().sum(1).argmin())]


def main(
    trials: Annotated[int, typer.Option()] = 50,
    seeds: Annotated[int, typer.Option()] = 3,
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    runs: dict[str, list[Run]] = {"gp": [], "qLogNEHVI": []}
    curves: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for seed in range(seeds):
        function = Formula(seed)
        torch.manual_seed(seed)  # BoTorch draws its samples
        answer = function(dense(function.shape))
        dense_values = np.array([answer.clean, answer.corrupted, function.space.gflops({})])
        for name in runs:
            chooses = SurrogateSampler._best if name == "gp" else best
            with patch.object(SurrogateSampler, "_best", chooses):
                runs[name].append(ARMS["raycomp gp"](function, seed, trials))
            curves[name].append(runs[name][-1].hypervolumes(dense_values, trials, 0.0))
            print(f"seed {seed}, {name}: {curves[name][-1][-1]:.4f}", flush=True)
    report("formula", {name: np.array(curve) for name, curve in curves.items()}, runs)


if __name__ == "__main__":
    typer.run(main)
