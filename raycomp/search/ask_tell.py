"""Optuna's side of a search: its sampler is asked for a recipe while the one before is still measured.

So no worker waits for it. What ends meanwhile is learned before the next ask; with one worker that is always the trial
before, and an interruption changes nothing. The sampler is seeded anew for each ask from (seed, number).
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
from raycomp.results.row import Row
from raycomp.search.early_stopping import EarlyStopping
from raycomp.search.history import FULL, FixedSpaceTPE, condensed
from raycomp.search.proposal import Proposal
from raycomp.search.sampler import SurrogateSampler, distributions
from raycomp.search.surrogate import Surrogate
from raycomp.settings.space_and_search import SearchConfig
from raycomp.space import Space

_TRIES = 200  # asks for a recipe that is not measured yet, before the space counts as exhausted
_RANDOM = 20  # tries after which they are random
_OFF_GRID = 0.05  # a known recipe whose cost is this far from its grid point is not told to Optuna


class AskTell:
    """One ask at a time, made in a thread of its own."""

    def __init__(self, space: Space, config: SearchConfig, budget: float, rows: Sequence[Row], taken: Set[str]) -> None:
        """`rows`: those of the search; `taken`: ids of recipes that are not to be proposed, others may add to it."""
        self._space, self._config, self._budget, self._taken = space, config, budget, taken
        self._distributions = distributions(space)
        self._surrogate, self._early_stopping = Surrogate(), EarlyStopping()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(directions=objectives.directions())
        self._memory: list[FrozenTrial] = []
        """The complete trials of the study."""
        self._running: dict[str, optuna.Trial] = {}
        self._thread = ThreadPoolExecutor(1, "raycomp-ask")
        self._ask: Future[Proposal | None] | None = None
        for row, following in pairwise(rows):
            if following.origin == "proposed" != row.origin:
                self._replay(following)  # which was chosen before this known one ended
            self._learn(row)
        self._told = deque(rows[-1:])
        """Rows that the next ask, or the one that is being made, does not know of."""
        if rows and rows[-1].origin == "proposed":
            self._replay(rows[-1])

    def tell(self, row: Row) -> None:
        """Have a finished row of the search known to the next ask that begins."""
        self._told.append(row)

    def prefetch(self, number: int) -> None:
        """Begin to choose the proposal of this number."""
        while self._told:
            self._learn(self._told.popleft())
        self._ask = self._thread.submit(self._chosen, number)

    def next(self, number: int) -> Proposal | None:
        """The proposal that was begun, or one of this number; None where the space is exhausted."""
        ask, self._ask = self._ask or self._thread.submit(self._chosen, number), None
        return ask.result()

    def close(self) -> None:
        """Wait for the proposal that is being made, and end the thread; gpytorch's settings are global to a process."""
        self._thread.shutdown(cancel_futures=True)

    def _replay(self, row: Row) -> None:
        """Have the recipe of a row run in the study as it did when it was proposed."""
        if row.recipe_id not in self._running:
            self._running[row.recipe_id] = self._asked(dict(self._space.params(row.recipe)))

    def _learn(self, row: Row) -> None:
        found = self._objectives(row)
        trial = self._running.pop(row.recipe_id, None)
        if trial is None:
            if (frozen := as_trial(self._space, row, found)) is not None:
                self._study.add_trial(frozen)
                self._remember(frozen)
        elif found is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._remember(self._study.tell(trial, found))
        self._early_stopping.learn(row)

    def _objectives(self, row: Row) -> tuple[float, ...] | None:
        """What the sampler is told; None for a row that failed."""
        if row.status == "stopped":
            return *self._early_stopping.expected(row), row.cost
        return objectives.values(row) if row.status == "complete" else None

    def _remember(self, trial: FrozenTrial) -> None:
        """Count a complete trial; a memory that is full goes on, condensed, in a new study."""
        self._memory.append(trial)
        if len(self._memory) < FULL or self._config.sampler == "nsga2":  # which needs its generations whole
            return
        self._memory = condensed(self._memory)
        self._study = optuna.create_study(directions=objectives.directions())
        self._study.add_trials(self._memory)
        self._running = {key: self._asked(running.params) for key, running in self._running.items()}

    def _asked(self, params: dict[str, Any]) -> optuna.Trial:
        """A running trial of the study with these parameters."""
        if not isinstance(self._study.sampler, NSGAIISampler):
            self._study.sampler = RandomSampler(seed=0)  # nothing is drawn, and no trials are looked at for it
        self._study.enqueue_trial(params)
        return self._study.ask(self._distributions)

    def _chosen(self, number: int) -> Proposal | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for attempt in range(_TRIES):
                self._study.sampler = self._sampler(number, attempt)
                trial = self._study.ask(self._distributions)
                projected = self._space.project(dict(trial.params), self._budget)
                if projected != trial.params:  # Optuna is to know what is measured, not what it drew
                    self._study.tell(trial, state=TrialState.FAIL)
                    trial = self._asked(dict(projected))
                recipe = self._space.recipe(projected)
                if recipe.id not in self._taken:
                    self._running[recipe.id] = trial
                    thresholds = self._early_stopping.thresholds(self._space.cost(recipe))
                    return Proposal(number, "search", "proposed", "", recipe, thresholds)
                self._study.tell(trial, state=TrialState.FAIL)  # its first measurement is known already
        return None

    def _sampler(self, number: int, attempt: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._config.seed, number, attempt]).generate_state(1)[0])
        if self._config.sampler == "random" or attempt >= _RANDOM:
            return RandomSampler(seed=seed)
        if self._config.sampler == "gp":
            return SurrogateSampler(self._space, self._budget, self._surrogate, seed)
        if self._config.sampler == "nsga2":
            return NSGAIISampler(population_size=20, seed=seed)
        return FixedSpaceTPE(self._distributions, seed)


def as_trial(space: Space, row: Row, found: tuple[float, ...] | None) -> FrozenTrial | None:
    """A row as Optuna's trial, at the nearest point of the grid; None without objectives, or not near."""
    if found is None:
        return None
    params = space.params(row.recipe)
    if abs(space.cost(space.recipe(params)) / row.cost - 1) > _OFF_GRID:
        return None
    return create_trial(params=dict(params), distributions=distributions(space), values=list(found))
