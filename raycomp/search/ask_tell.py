# SPDX-License-Identifier: Apache-2.0
"""Optuna's side of a search: ask for the next recipe while the previous one is still being measured.

Workers therefore never wait for the sampler. Trials that finish meanwhile are reported before the next ask; with one
worker that is always the previous trial, so an interruption changes nothing. Each ask is seeded from (seed, number).
"""

import warnings
from collections import deque
from collections.abc import Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from raycomp import objectives
from raycomp.recipe import dense
from raycomp.results.row import Row
from raycomp.search.additive_sampler import STAGE, AdditiveSampler, attributes
from raycomp.search.early_stopping import EarlyStopping
from raycomp.search.knowledge import Knowledge
from raycomp.search.proposal import Proposal
from raycomp.search.sampler import FULL, FixedSpaceTPE, SurrogateSampler, condensed, distributions, grid_point
from raycomp.search.schedule import Schedule, Turn
from raycomp.search.surrogate import Surrogate
from raycomp.settings.space_and_search import SearchConfig
from raycomp.space import Space

_MAX_ASKS = 200  # asks for an unmeasured recipe before the space counts as exhausted
_RANDOM_AFTER = 20  # asks after which sampling is random
Key = tuple[str, str]
"""A stage and a recipe id."""


class AskTell:
    """Asks the sampler for proposals, one at a time, in a background thread."""

    def __init__(
        self, space: Space, config: SearchConfig, rows: Sequence[Row], taken: Set[Key], schedule: Schedule, first: int
    ) -> None:
        """Replay the trials so far.

        Args:
            rows: probes and search rows without the dense model, in order.
            taken: stages and ids of recipes not to propose, which the caller may extend.
            first: number of the proposal that takes the first turn of the schedule.
        """
        self._space, self._config, self._taken = space, config, taken
        self._schedule, self._first = schedule, first
        self._dense_cost, self._budget = space.cost(dense(space.shape)), space.budget_of(config.budget)
        self._dense: Row | None = None
        self._distributions = distributions(space)
        self._surrogate, self._early_stopping = Surrogate(), EarlyStopping()
        self._knowledge = Knowledge(space) if config.sampler == "additive" else None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(directions=objectives.directions())
        self._complete: list[FrozenTrial] = []
        self._running: dict[Key, optuna.Trial] = {}
        """Running trials of the study by stage and recipe id."""
        self._thread = ThreadPoolExecutor(1, "raycomp-ask")
        self._ask: Future[Proposal | None] | None = None
        for row, following in pairwise(rows):
            if following.origin == "proposed" != row.origin:
                self._replay(following)  # proposed before this baseline finished
            self._learn(row)
        self._pending = deque(rows[-1:])
        """Rows to learn before the next ask."""
        if rows and rows[-1].origin == "proposed":
            self._replay(rows[-1])

    def tell(self, row: Row) -> None:
        """Report a finished probe or search row, for the next ask that starts."""
        self._pending.append(row)

    def tell_dense(self, row: Row) -> None:
        """Report the row of the dense model."""
        self._dense = row

    def turn(self, number: int) -> Turn:
        """Return the task of a proposal; without probes and shares, any recipe within the budget."""
        if self._knowledge is None:
            return Turn("search", self._budget / self._dense_cost, True)
        return self._schedule.turn(number - self._first)

    def prefetch(self, number: int) -> None:
        """Start choosing the proposal with this number."""
        while self._pending:
            self._learn(self._pending.popleft())
        self._ask = self._thread.submit(self._choose, number)

    def next(self, number: int) -> Proposal | None:
        """Return the prefetched proposal, or choose one with this number; None when the space is exhausted."""
        ask, self._ask = self._ask or self._thread.submit(self._choose, number), None
        return ask.result()

    def close(self) -> None:
        """Wait for the running ask and end the thread, since gpytorch's settings are global to the process."""
        self._thread.shutdown(cancel_futures=True)

    def _replay(self, row: Row) -> None:
        """Restore the recipe of a row as a running trial, as it was when it was proposed."""
        if (row.stage, row.recipe_id) not in self._running:
            trial = self._asked(dict(self._space.params(row.recipe)))
            self._run(trial, row.stage, row.recipe_id)

    def _run(self, trial: optuna.Trial, stage: str, recipe_id: str) -> None:
        trial.set_user_attr(STAGE, stage)
        self._running[stage, recipe_id] = trial

    def _learn(self, row: Row) -> None:
        """Report a row to the study; for a stopped row, report the expected objectives."""
        values = objectives.values(row) if row.status == "complete" else None
        if row.status == "stopped":
            values = *self._early_stopping.expected(row), row.cost
        trial = self._running.pop((row.stage, row.recipe_id), None)
        if trial is None:
            if (frozen := as_trial(self._space, row, values)) is not None:
                frozen.user_attrs = attributes(row)
                self._study.add_trial(frozen)
                self._remember(frozen)
        elif values is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            for name, value in attributes(row).items():
                trial.set_user_attr(name, value)
            self._remember(self._study.tell(trial, values))
        self._early_stopping.learn(row)

    def _remember(self, trial: FrozenTrial) -> None:
        """Keep a complete trial. Once there are `FULL`, condense them and continue in a new study."""
        self._complete.append(trial)
        if len(self._complete) < FULL or self._config.sampler == "nsga2":  # NSGA-II needs complete generations
            return
        self._complete = condensed(self._complete)
        self._study = optuna.create_study(directions=objectives.directions())
        self._study.add_trials(self._complete)
        running, self._running = self._running, {}
        for (stage, recipe_id), one in running.items():
            self._run(self._asked(one.params), stage, recipe_id)

    def _asked(self, params: dict[str, Any]) -> optuna.Trial:
        """Add a running trial with these parameters to the study."""
        if not isinstance(self._study.sampler, NSGAIISampler):
            self._study.sampler = RandomSampler(seed=0)  # the parameters are given, so skip costlier samplers
        self._study.enqueue_trial(params)
        return self._study.ask(self._distributions)

    def _choose(self, number: int) -> Proposal | None:
        turn = self.turn(number)
        limit = min(turn.share * self._dense_cost, self._budget)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for attempt in range(_MAX_ASKS):
                self._study.sampler = self._sampler(turn, limit, number, attempt)
                trial = self._study.ask(self._distributions)
                projected = self._space.project(dict(trial.params), limit)
                if projected != trial.params:  # Optuna learns the point that is measured, not the one it drew
                    self._study.tell(trial, state=TrialState.FAIL)
                    trial = self._asked(dict(projected))
                recipe = self._space.recipe(projected)
                if not self._taken & {(turn.stage, recipe.id), ("search", recipe.id)}:
                    self._run(trial, turn.stage, recipe.id)
                    stoppable = turn.stage == "search"
                    thresholds = self._early_stopping.thresholds(self._space.cost(recipe)) if stoppable else ()
                    return Proposal(number, turn.stage, "proposed", "", recipe, thresholds)
                self._study.tell(trial, state=TrialState.FAIL)  # already measured
        return None

    def _sampler(self, turn: Turn, limit: float, number: int, attempt: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._config.seed, number, attempt]).generate_state(1)[0])
        if self._config.sampler == "random" or attempt >= _RANDOM_AFTER:
            return RandomSampler(seed=seed)
        if self._knowledge is not None:
            return AdditiveSampler(self._knowledge, turn, limit, self._dense, seed)
        if self._config.sampler == "gp":
            return SurrogateSampler(self._space, self._budget, self._surrogate, seed)
        if self._config.sampler == "nsga2":
            return NSGAIISampler(population_size=20, seed=seed)
        return FixedSpaceTPE(self._distributions, seed)


def as_trial(space: Space, row: Row, values: tuple[float, ...] | None) -> FrozenTrial | None:
    """Return a row as an Optuna trial at the nearest grid point; None without values, or if no grid point is near."""
    if values is None or (params := grid_point(space, row)) is None:
        return None
    return create_trial(params=dict(params), distributions=distributions(space), values=list(values))
