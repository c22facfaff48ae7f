"""What to measure next: known recipes, then Optuna's proposals, then the front on the full set.

The rows of the store are the only memory: a proposer made from them goes on where they end. The
sampler is seeded anew for each proposal from (seed, number), so an interruption changes nothing.
"""

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from raycomp.recipe import Recipe, dense
from raycomp.results.row import Row, cost
from raycomp.results.store import completed
from raycomp.search.first_images import FirstImages
from raycomp.search.history import FULL, FixedSpaceTPE, condensed
from raycomp.search.known import BASELINES, known
from raycomp.search.pareto import DIRECTIONS, most_useful, values
from raycomp.search.proposal import Proposal
from raycomp.search.sampler import SurrogateSampler, distributions
from raycomp.search.space import Space
from raycomp.search.surrogate import Surrogate
from raycomp.sections import SearchConfig

_CONFIRMED = 12  # members of the front that are measured on the full set
_TRIES = 200  # asks for a recipe that is not measured yet, before the space counts as exhausted
_RANDOM = 20  # tries after which they are random
_OFF_GRID = 0.05  # a known recipe whose cost is this far from its grid point is not told to Optuna


class Proposer:
    """Hands out proposals and learns from finished rows. No Ray in it."""

    def __init__(
        self, space: Space, config: SearchConfig, rows: Sequence[Row], measurable: Space | None = None
    ) -> None:
        """`measurable`: known recipes outside of it are left out, as an elastic model has not met them."""
        self.space, self.config, self._measurable = space, config, measurable
        self.dense = dense(space.shape)
        self.dense_cost = space.cost(self.dense)
        self.budget = config.budget * self.dense_cost
        space.check_budget(self.budget)
        self.rows: dict[tuple[str, str], Row] = {}
        self._trials_done = 0
        self._open: dict[tuple[str, str], optuna.Trial | None] = {}
        self._exhausted = False
        self._confirming = False
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(directions=list(DIRECTIONS))
        self._surrogate = Surrogate()
        self._first_images = FirstImages()
        self._memory: list[FrozenTrial] = []
        """The complete trials of the study."""
        self._distributions = distributions(space)
        for row in rows:
            self._remember(row)
        self._first = self._known_proposals()
        self._full: deque[Proposal] = deque()

    @property
    def trials_done(self) -> int:
        """Search trials finished; the dense reference and the full stage do not count."""
        return self._trials_done

    @property
    def remaining(self) -> int:
        """Trials of the present stage that are not finished."""
        if self._confirming:
            return len(self._full) + len(self._open)
        return max(0, self.config.trials - self.trials_done)

    @property
    def finished(self) -> bool:
        """True when everything is handed out and told."""
        return self._confirming and not self._full and not self._open

    def next(self) -> Proposal | None:
        """The next proposal, or None while the open ones must finish first."""
        proposal = self._next_search() or self._next_full()
        if proposal is not None:
            self._open.setdefault(proposal.key, None)
        return proposal

    def tell(self, row: Row) -> None:
        """Learn from a finished row, complete or failed."""
        trial = self._open.pop((row["stage"], row["recipe_id"]), None)
        if trial is None:
            self._remember(row)
            return
        self._record(row)
        if (found := self._objectives(row)) is not None:
            self._learned(self._study.tell(trial, found))
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def search_rows(self) -> list[Row]:
        """Complete search-stage rows within the budget."""
        return [row for row in completed(self.rows.values(), "search") if _is_trial(row)]

    def _remember(self, row: Row) -> None:
        """Record a row that Optuna did not ask for, at the nearest point of its grid."""
        self._record(row)
        if _is_trial(row) and (trial := self.frozen(row, self._objectives(row))) is not None:
            self._study.add_trial(trial)
            self._learned(trial)

    def _record(self, row: Row) -> None:
        key = (row["stage"], row["recipe_id"])
        self._trials_done += key not in self.rows and _is_trial(row)
        self.rows[key] = row
        if _is_trial(row):
            self._first_images.learn(row)

    def _objectives(self, row: Row) -> tuple[float, float, float] | None:
        """What the sampler is told; None for a row that failed."""
        if row["status"] == "stopped":
            return *self._first_images.expected(row), cost(row)
        return values(row) if row["status"] == "complete" else None

    def _learned(self, trial: FrozenTrial) -> None:
        """Count a complete trial; a memory that is full goes on, condensed, in a new study."""
        self._memory.append(trial)
        if len(self._memory) < FULL or self.config.sampler == "nsga2":  # which needs its generations whole
            return
        self._memory = condensed(self._memory)
        self._study = optuna.create_study(directions=list(DIRECTIONS))
        self._study.add_trials(self._memory)
        for key, running in self._open.items():
            if running is not None:
                self._open[key] = self._asked(running.params)

    def _asked(self, params: dict[str, Any]) -> optuna.Trial:
        """A running trial of the study with these parameters."""
        if not isinstance(self._study.sampler, NSGAIISampler):
            self._study.sampler = RandomSampler(seed=0)  # nothing is drawn, and no trials are looked at for it
        self._study.enqueue_trial(params)
        return self._study.ask(self._distributions)

    def frozen(self, row: Row, objectives: tuple[float, float, float] | None) -> FrozenTrial | None:
        """A row as Optuna's trial, at the nearest point of the grid; None without objectives, or not near."""
        if objectives is None:
            return None
        params = self.space.params(Recipe.model_validate_json(row["recipe_json"]))
        if abs(self.space.cost(self.space.recipe(params)) / cost(row) - 1) > _OFF_GRID:
            return None
        return create_trial(params=dict(params), distributions=self._distributions, values=list(objectives))

    def _known_proposals(self) -> deque[Proposal]:
        """The dense reference, then known recipes within the budget."""
        queue = deque([("reference", "dense", self.dense)])
        shares = tuple(share for share in self.config.known if share <= self.config.budget)
        inside = self._measurable
        least = None if inside is None else inside.recipe(inside.smallest)
        for one in known(self.space.shape, self.space.image, shares, self.space.cost, least):
            if inside is None or not inside.outside(one.recipe):
                queue.append(("known", one.label, one.recipe))
        proposals: dict[str, Proposal] = {}
        for origin, label, recipe in queue:
            proposals.setdefault(recipe.id, Proposal(len(proposals), "search", origin, label, recipe))
        return deque(p for p in list(proposals.values())[: self.config.trials + 1] if p.key not in self.rows)

    def _next_search(self) -> Proposal | None:
        if self._first:
            return self._first.popleft()
        open_trials = sum(1 for stage, recipe_id in self._open if stage == "search" and recipe_id != self.dense.id)
        if self._exhausted or self.trials_done + open_trials >= self.config.trials:
            return None
        number = 1 + self.trials_done + open_trials
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self._ask(number)

    def _ask(self, number: int) -> Proposal | None:
        for attempt in range(_TRIES):
            self._study.sampler = self._sampler(number, attempt)
            trial = self._study.ask(self._distributions)
            projected = self.space.project(dict(trial.params), self.budget)
            if projected != trial.params:  # Optuna is to know what is measured, not what it drew
                self._study.tell(trial, state=TrialState.FAIL)
                trial = self._asked(dict(projected))
            recipe = self.space.recipe(projected)
            bars = self._first_images.bars(self.space.cost(recipe))
            proposal = Proposal(number, "search", "proposed", "", recipe, bars)
            if proposal.key not in self.rows and proposal.key not in self._open:
                self._open[proposal.key] = trial
                return proposal
            self._study.tell(trial, state=TrialState.FAIL)  # its first measurement is known already
        self._exhausted = True
        return None

    def _sampler(self, number: int, attempt: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self.config.seed, number, attempt]).generate_state(1)[0])
        if self.config.sampler == "random" or attempt >= _RANDOM:
            return RandomSampler(seed=seed)
        if self.config.sampler == "gp":
            return SurrogateSampler(self.space, self.budget, self._surrogate, seed)
        if self.config.sampler == "nsga2":
            return NSGAIISampler(population_size=20, seed=seed)
        return FixedSpaceTPE(self._distributions, seed)

    def _next_full(self) -> Proposal | None:
        """Once the search is over: dense, baselines and front, on the full set."""
        if not self._confirming:
            if any(stage == "search" for stage, _ in self._open):
                return None
            self._confirming = True
            self._full = deque(self._full_proposals())
        return self._full.popleft() if self._full else None

    def _full_proposals(self) -> list[Proposal]:
        found = self.search_rows()
        chosen = most_useful(found, _CONFIRMED, self.dense_cost)
        baselines = [row for row in found if row["label"].rpartition(" ")[0] in BASELINES]
        reference = self.rows.get(("search", self.dense.id))
        unique = {row["recipe_id"]: row for row in [*([reference] if reference else []), *baselines, *chosen]}
        slowest_first = sorted(unique.values(), key=lambda row: -row["gflops"])  # no worker waits long at the end
        proposals = [
            Proposal(number, "full", row["origin"], row["label"], Recipe.model_validate_json(row["recipe_json"]))
            for number, row in enumerate(slowest_first)
        ]
        return [p for p in proposals if p.key not in self.rows]


def _is_trial(row: Row) -> bool:
    return bool(row["stage"] == "search" and row["origin"] != "reference")
