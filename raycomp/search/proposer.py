# SPDX-License-Identifier: Apache-2.0
"""Choose what to measure next: baselines, then Optuna's proposals, then the full evaluation of the front.

The rows of the store are the only state: a proposer made from them resumes where they end.
"""

from collections import deque
from collections.abc import Sequence
from itertools import count

from raycomp.recipe import dense
from raycomp.results.query import completed, counted, for_full_evaluation
from raycomp.results.row import Row, present
from raycomp.search.ask_tell import AskTell
from raycomp.search.baselines import INT8, Baseline, by_priority, matched_baselines
from raycomp.search.proposal import Proposal
from raycomp.search.schedule import Schedule
from raycomp.settings.space_and_search import SearchConfig
from raycomp.space import Space

_STAGES = ("probe", "search")
_ROUNDING = 1e-6


class Proposer:
    """Hands out proposals and learns from finished rows, without Ray."""

    def __init__(
        self,
        space: Space,
        config: SearchConfig,
        rows: Sequence[Row],
        measurable: Space | None = None,
        probe_trials: float | None = None,
    ) -> None:
        """Resume from the rows of a sweep.

        Args:
            measurable: the space an elastic model was trained over; baselines outside it are skipped.
            probe_trials: images of a probe relative to those of a trial; None if there are no probes.
        """
        self.space, self.config, self._measurable = space, config, measurable
        self.dense = dense(space.shape)
        self.dense_cost = space.cost(self.dense)
        self.budget = space.budget_of(config.budget)
        space.check_budget(self.budget)
        self.shares = config.shares(self.budget / self.dense_cost)
        """Shares of the dense cost to search at."""
        self.rows: dict[tuple[str, str], Row] = {}
        self._probe_trials = probe_trials if config.sampler == "additive" else None
        self.spent = 0.0
        """Trials finished, without the dense reference and the full stage; a probe counts as a part of one."""
        self._finished = 0
        """Number of their rows."""
        self._open: set[tuple[str, str]] = set()
        self._exhausted = False
        for row in rows:
            retry = row.is_dense and row.status == "failed"  # no search can run without the dense model
            if row.stage in (*_STAGES, "full") and not retry:  # rows of other stages were not proposed here
                self._record(row)
        trials = [row for row in rows if _is_trial(row)]
        self._taken = {key for key in self.rows if key[0] in _STAGES}
        self.first = self._baseline_proposals()
        """The dense reference and the baselines that are not handed out yet."""
        baselines = [row.stage for row in trials if row.origin == "baseline"]
        baselines += [one.stage for one in self.first if one.origin == "baseline"]
        left = config.trials - sum(map(self.trials_of, baselines))
        schedule = Schedule(self.shares, left, self._probe_trials)
        self._ask_tell = AskTell(space, config, trials, self._taken, schedule, 1 + len(baselines))
        for row in completed(self.rows.values(), "search"):
            if row.origin == "reference":
                self._ask_tell.tell_dense(row)
        self._full: deque[Proposal] | None = None
        """Proposals of the full stage; None before it starts."""

    @property
    def agenda(self) -> str:
        """Description of the remaining trials."""
        baselines = [one for one in self.first if one.origin == "baseline"]
        left = max(0.0, self.config.trials - self.spent - sum(self.trials_of(one.stage) for one in baselines))
        return f"{counted(len(baselines))}, then trials for {left:.0f} proposed by {self.config.sampler}"

    @property
    def trials_done(self) -> int:
        """Trials finished, rounded."""
        return round(self.spent)

    @property
    def remaining(self) -> int:
        """Number of unfinished trials in the current stage."""
        if self._full is not None:
            return len(self._full) + len(self._open)
        return max(0, round(self.config.trials - self.spent))

    @property
    def finished(self) -> bool:
        """Whether every proposal was handed out and its row reported."""
        return self._full is not None and not self._full and not self._open

    def next(self) -> Proposal | None:
        """Return the next proposal, or None while open ones must finish first."""
        proposal = self._next_search() or self._next_full()
        if proposal is not None:
            self._open.add(proposal.key)
            if proposal.stage in _STAGES:
                self._taken.add(proposal.key)
                if not self.first and self._trials_left:
                    self._ask_tell.prefetch(self._number)
        return proposal

    def close(self) -> None:
        """End the thread that asks for proposals; the proposer cannot be used afterwards."""
        self._ask_tell.close()

    def tell(self, row: Row) -> None:
        """Learn from a finished row, complete or failed."""
        self._open.discard((row.stage, row.recipe_id))
        self._record(row)
        if _is_trial(row):
            self._ask_tell.tell(row)
        elif row.stage == "search" and row.status == "complete":
            self._ask_tell.tell_dense(row)

    def search_rows(self) -> list[Row]:
        """Return the complete rows of search trials."""
        return [row for row in completed(self.rows.values(), "search") if _is_trial(row)]

    def _record(self, row: Row) -> None:
        key = (row.stage, row.recipe_id)
        if key not in self.rows and _is_trial(row):
            self.spent += self.trials_of(row.stage)
            self._finished += 1
        self.rows[key] = row

    def trials_of(self, stage: str) -> float:
        """Return how many trials a measurement at this stage counts as."""
        return 1.0 if stage == "search" else self._probe_trials or 1.0

    @property
    def _number(self) -> int:
        """Number of the next search proposal."""
        return 1 + self._finished + len(self._running)

    @property
    def _running(self) -> list[str]:
        """Stages of the running trials."""
        return [stage for stage, recipe_id in self._open if stage in _STAGES and recipe_id != self.dense.id]

    @property
    def _trials_left(self) -> bool:
        if self._exhausted:
            return False
        running = sum(map(self.trials_of, self._running))
        following = self.trials_of(self._ask_tell.turn(self._number).stage)
        return self.spent + running + following <= self.config.trials + _ROUNDING

    def _baseline_proposals(self) -> deque[Proposal]:
        """Return the dense reference, then baselines within budget and limits, for at most half of the trials."""
        shares = self.shares if self.config.baselines else ()
        space, limits = self.space, self._measurable
        narrowest = None if limits is None else limits.recipe(limits.smallest)
        offered: dict[str, Baseline] = {}
        fixed = space.sparing
        for one in matched_baselines(space.shape, space.image, shares, space.cost, narrowest, space.merging, fixed):
            if space.allows(one.recipe, self.budget) and (limits is None or not limits.outside(one.recipe)):
                offered.setdefault(one.recipe.id, one)
        offered.pop(self.dense.id, None)
        if "int8" in space.config.precision and self.config.baselines:  # over the budget, too: it shows what INT8 does
            whole = self.dense.at("int8")
            offered[whole.id] = Baseline(INT8, space.cost(whole) / self.dense_cost, whole)
        done = [row for row in self.rows.values() if row.stage in _STAGES]
        stage = "search" if self._probe_trials is None else "probe"
        used = sum(self.trials_of(row.stage) for row in done if row.origin == "baseline")
        room = min(self.config.trials / 2 - used, self.config.trials - self.spent)
        count_left = max(0, int(room / self.trials_of(stage) + _ROUNDING))
        left = [one for one in by_priority(offered.values()) if (stage, one.recipe.id) not in self.rows][:count_left]
        queue = [("search", "reference", "dense", self.dense)] if ("search", self.dense.id) not in self.rows else []
        queue += [(stage, "baseline", one.label, one.recipe) for one in offered.values() if one in left]
        taken = {row.number for row in done}
        numbers = (number for number in count() if number not in taken)
        return deque(Proposal(next(numbers), *one) for one in queue)

    def _next_search(self) -> Proposal | None:
        if self.first:
            return self.first.popleft()
        if not self._trials_left:
            return None
        proposal = self._ask_tell.next(self._number)
        self._exhausted = proposal is None
        return proposal

    def _next_full(self) -> Proposal | None:
        """After the search, hand out the full evaluation: dense model, baselines and front."""
        if self._full is None:
            if any(stage in _STAGES for stage, _ in self._open):
                return None
            # Starting with the slowest keeps workers from waiting for it at the end.
            slowest_first = sorted(for_full_evaluation(self.rows.values()), key=lambda row: -present(row.gflops))
            self._full = deque(
                Proposal(number, "full", row.origin, row.label, row.recipe)
                for number, row in enumerate(slowest_first)
                if ("full", row.recipe_id) not in self.rows
            )
        return self._full.popleft() if self._full else None


def _is_trial(row: Row) -> bool:
    return row.stage in _STAGES and row.origin != "reference"
