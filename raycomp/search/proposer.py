"""What to measure next: known recipes, then Optuna's proposals, then the front on the full set.

The rows of the store are the only memory: a proposer made from them goes on where they end.
"""

from collections import deque
from collections.abc import Sequence
from itertools import count

from raycomp.recipe import dense
from raycomp.results.query import completed, counted, for_full_evaluation
from raycomp.results.row import Row, present
from raycomp.search.ask_tell import AskTell
from raycomp.search.baselines import Baseline, by_priority, known
from raycomp.search.proposal import Proposal
from raycomp.settings.space_and_search import SearchConfig
from raycomp.space import Space


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
        self._open: set[tuple[str, str]] = set()
        self._exhausted = False
        self._confirming = False
        for row in rows:
            again = row.is_dense and row.status == "failed"  # nothing goes on without the dense model
            if row.stage in ("search", "full") and not again:  # others, as refined ones, were not proposed here
                self._record(row)
        trials = [row for row in rows if _is_trial(row)]
        self._taken = {recipe_id for stage, recipe_id in self.rows if stage == "search"}
        self._ask_tell = AskTell(space, config, self.budget, trials, self._taken)
        self._first = self._known_proposals()
        self._full: deque[Proposal] = deque()

    @property
    def trials_done(self) -> int:
        """Search trials finished; the dense reference and the full stage do not count."""
        return self._trials_done

    @property
    def first(self) -> Sequence[Proposal]:
        """The dense reference and the known recipes, as far as they are not handed out yet."""
        return tuple(self._first)

    @property
    def agenda(self) -> str:
        """The trials that are left, in words."""
        known = sum(proposal.origin == "baseline" for proposal in self._first)
        proposed = max(0, self.config.trials - self.trials_done - known)
        return f"{counted(known)}, {proposed} proposed by {self.config.sampler}"

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
            self._open.add(proposal.key)
            if proposal.stage == "search":
                self._taken.add(proposal.recipe.id)
                if not self._first and self._trials_left:
                    self._ask_tell.prefetch(self._number)
        return proposal

    def close(self) -> None:
        """End the thread that makes proposals; the proposer is not to be used after it."""
        self._ask_tell.close()

    def tell(self, row: Row) -> None:
        """Learn from a finished row, complete or failed."""
        self._open.discard((row.stage, row.recipe_id))
        self._record(row)
        if _is_trial(row):
            self._ask_tell.tell(row)

    def search_rows(self) -> list[Row]:
        """Complete search-stage rows within the budget."""
        return [row for row in completed(self.rows.values(), "search") if _is_trial(row)]

    def _record(self, row: Row) -> None:
        key = (row.stage, row.recipe_id)
        self._trials_done += key not in self.rows and _is_trial(row)
        self.rows[key] = row

    @property
    def _number(self) -> int:
        """Of the next proposal of the search."""
        running = sum(1 for stage, recipe_id in self._open if stage == "search" and recipe_id != self.dense.id)
        return 1 + self.trials_done + running

    @property
    def _trials_left(self) -> bool:
        return not self._exhausted and self._number <= self.config.trials

    def _known_proposals(self) -> deque[Proposal]:
        """The dense reference, then known recipes within the budget, which leave half of the trials to the search."""
        shares = tuple(share for share in self.config.baselines if share <= self.config.budget)
        inside = self._measurable
        least = None if inside is None else inside.recipe(inside.smallest)
        offered: dict[str, Baseline] = {}
        for one in known(self.space.shape, self.space.image, shares, self.space.cost, least, self.space.merging):
            if inside is None or not inside.outside(one.recipe):
                offered.setdefault(one.recipe.id, one)
        offered.pop(self.dense.id, None)
        done = [row for row in self.rows.values() if row.stage == "search"]
        room = self.config.trials // 2 - sum(row.origin == "baseline" for row in done)
        room = max(0, min(room, self.config.trials - self.trials_done))
        left = [one for one in by_priority(offered.values()) if ("search", one.recipe.id) not in self.rows][:room]
        queue = [("reference", "dense", self.dense)] if ("search", self.dense.id) not in self.rows else []
        queue += [("baseline", one.label, one.recipe) for one in offered.values() if one in left]
        taken = {row.number for row in done}
        numbers = (number for number in count() if number not in taken)
        return deque(Proposal(next(numbers), "search", *one) for one in queue)

    def _next_search(self) -> Proposal | None:
        if self._first:
            return self._first.popleft()
        if not self._trials_left:
            return None
        proposal = self._ask_tell.next(self._number)
        self._exhausted = proposal is None
        return proposal

    def _next_full(self) -> Proposal | None:
        """Once the search is over: dense, baselines and front, on the full set."""
        if not self._confirming:
            if any(stage == "search" for stage, _ in self._open):
                return None
            self._confirming = True
            self._full = deque(self._full_proposals())
        return self._full.popleft() if self._full else None

    def _full_proposals(self) -> list[Proposal]:
        # none waits at the end
        slowest_first = sorted(for_full_evaluation(self.rows.values()), key=lambda row: -present(row.gflops))
        proposals = [
            Proposal(number, "full", row.origin, row.label, row.recipe) for number, row in enumerate(slowest_first)
        ]
        return [p for p in proposals if p.key not in self.rows]


def _is_trial(row: Row) -> bool:
    return row.stage == "search" and row.origin != "reference"
