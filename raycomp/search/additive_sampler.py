# SPDX-License-Identifier: Apache-2.0
"""An Optuna sampler that solves for the best recipe at a share of the dense cost, by an additive model.

A turn that explores solves for a function drawn near the expected one, so that what the model is unsure of is tried
(Thompson sampling). All others solve for a lower bound of the expected one: a solver finds the recipes that a model
overrates. Recipes are measured as probes, on few images, or on all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from raycomp import objectives
from raycomp.results.row import Row
from raycomp.search.knowledge import Knowledge, Observation, Point
from raycomp.search.sampler import distributions
from raycomp.search.schedule import Turn

_TEMPERATURE = 0.5
STAGE, FIRST, STOPPED = "stage", "first", "stopped"
"""Attributes of a trial: its stage, the mIoUs on its first images, and whether it stopped after them."""


def attributes(row: Row) -> dict[str, Any]:
    """Return what the sampler needs to know about a row, apart from its objectives, as attributes of a trial."""
    found: dict[str, Any] = {STAGE: row.stage}
    if row.stage == "search" and all(one.first and one.has_first(row) for one in objectives.mious()):
        found[FIRST] = [one.first_value(row) for one in objectives.mious()]
    if row.status == "stopped":
        found[STOPPED] = True
    return found


class AdditiveSampler(BaseSampler):
    """Solves for recipes within a share of the dense cost."""

    def __init__(self, knowledge: Knowledge, turn: Turn, limit: float, dense: Row | None, seed: int) -> None:
        """Prepare one ask.

        Args:
            knowledge: shared by all proposals of a sweep.
            limit: maximum cost in this turn, in the unit of `Space.cost`.
            dense: the dense model's row, once it is measured.
        """
        self._knowledge, self._turn, self._budget, self._dense = knowledge, turn, limit, dense
        self._seed = seed

    def infer_relative_search_space(self, *_: Any, **__: Any) -> dict[str, BaseDistribution]:
        """Return all dimensions of the space."""
        return distributions(self._knowledge.space)

    def sample_independent(self, *_: Any, **__: Any) -> Any:
        """Raise an error: all dimensions are sampled together."""
        raise NotImplementedError

    def sample_relative(self, study: Study, trial: FrozenTrial, *_: Any, **__: Any) -> dict[str, Any]:
        """Return the solution of this turn; before anything is measured, or without any, a random point."""
        rng = np.random.default_rng(self._seed)
        states = (TrialState.COMPLETE, TrialState.RUNNING)
        trials = [one for one in study.get_trials(deepcopy=False, states=states) if one.number != trial.number]
        observed = self._observations([one for one in trials if one.state == TrialState.COMPLETE])
        if not observed:
            return self._random(rng)
        self._knowledge.learn(observed)
        knowledge = self._knowledge
        explores = self._turn.explores
        value = knowledge.drawn(rng, _TEMPERATURE) if explores else knowledge.cautious
        taken = self._taken(trials)
        found = knowledge.best(value, self._budget, lambda point: point in taken, thorough=not explores)
        return self._random(rng) if found is None else dict(knowledge.params(found))

    def _random(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return a random point, projected onto the limits."""
        space = self._knowledge.space
        drawn = {d.name: int(rng.integers(d.low, d.high, endpoint=True) - d.low) // d.step * d.step + d.low
                 for d in space.dimensions.values()}  # fmt: skip
        return dict(space.project(drawn, self._budget))

    def _taken(self, trials: Sequence[FrozenTrial]) -> set[Point]:
        """Return the points that need no further measurement in this turn; a probe may still become a trial."""
        own = (self._turn.stage, "search")
        return {self._knowledge.point(one.params) for one in trials if one.user_attrs.get(STAGE, "search") in own}

    def _observations(self, trials: Sequence[FrozenTrial]) -> list[Observation]:
        """Return the observations of the dense model and of complete trials, in order."""
        names = [one.name for one in objectives.mious()]
        columns = [index for index, one in enumerate(objectives.measured()) if one.name in names]
        found: list[Observation] = []
        if self._dense is not None:
            whole = tuple([0] * len(self._knowledge.features.limits))
            values = [one.value(self._dense) for one in objectives.mious()]
            found += both_stages(whole, values, attributes(self._dense))
        for one in trials:
            point = self._knowledge.point(one.params)
            found += both_stages(point, [one.values[index] for index in columns], one.user_attrs)
        return found


def both_stages(point: Point, values: Sequence[float], about: Mapping[str, Any]) -> list[Observation]:
    """Return a trial's observation at its stage, and that of its first images, which are those of a probe.

    Args:
        values: Its mIoUs at its stage; not used for a trial that stopped.
        about: See `attributes`.
    """
    found = [] if STOPPED in about else [Observation(point, about.get(STAGE) == "probe", tuple(values))]
    if FIRST in about:
        found.append(Observation(point, True, tuple(about[FIRST])))
    return found
