"""What a sampler remembers of a long sweep, so that an ask costs the same after 5,000 trials as after 600.

Optuna's TPE reads every trial at every ask. It models the few best against all the others, and the
others' density hardly changes with how many of them stand for it.
"""

from collections.abc import Sequence

import moocore
import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from raycomp import objectives

FULL = 600
"""Trials at which the memory is condensed."""
KEPT = 300
"""Trials that are kept then."""


def condensed(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Half of `KEPT` the best by non-dominated rank, half evenly spaced among the others; in their order."""
    points = objectives.minimised([trial.values for trial in trials])
    by_rank = np.argsort(moocore.pareto_rank(points), kind="stable")
    best, others = by_rank[: KEPT // 2], np.sort(by_rank[KEPT // 2 :])
    spaced = others[np.linspace(0, len(others) - 1, KEPT - KEPT // 2).astype(int)]
    return [trials[index] for index in sorted({*best.tolist(), *spaced.tolist()})]


class FixedSpaceTPE(TPESampler):
    """Multivariate TPE over a known space; Optuna would find it anew in all trials whenever it is seeded."""

    def __init__(self, space: dict[str, BaseDistribution], seed: int) -> None:
        super().__init__(multivariate=True, constant_liar=True, n_startup_trials=8, seed=seed)
        self._known = {name: space[name] for name in sorted(space) if not space[name].single()}

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002  Optuna's interface
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """All parameters, in the order in which Optuna would find them."""
        return self._known
