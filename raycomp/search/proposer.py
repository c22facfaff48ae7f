"""What to measure next: known recipes, then Optuna's proposals, then the front on the full set.

The rows of the store are the only memory: a proposer made from them goes on where they end.
"""

from collections import deque
from collections.abc import Sequence

from raycomp.recipe import Recipe, dense
from raycomp.results.row import Row, is_dense
from raycomp.results.store import completed
from raycomp.search.asker import Asker
from raycomp.search.confirmed import confirmed
from raycomp.search.known import known
from raycomp.search.proposal import Proposal
from raycomp.search.space import Space
from raycomp.sections import SearchConfig


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
            again = is_dense(row) and row["status"] == "failed"  # nothing goes on without the dense model
            if row["stage"] in ("search", "full") and not again:  # others, as refined ones, were not proposed here
                self._record(row)
        trials = [row for row in rows if _is_trial(row)]
        self._taken = {recipe_id for stage, recipe_id in self.rows if stage == "search"}
        self._asker = Asker(space, config, self.budget, trials, self._taken)
        self._first = self._known_proposals()
        self._full: deque[Proposal] = deque()

    @property
    def trials_done(self) -> int:
        """Search trials finished; the dense reference and the full stage do not count."""
        return self._trials_done

    @property
    def known_left(self) -> int:
        """Known recipes that are not handed out yet."""
        return sum(proposal.origin == "known" for proposal in self._first)

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
                    self._asker.ahead(self._number)
        return proposal

    def tell(self, row: Row) -> None:
        """Learn from a finished row, complete or failed."""
        self._open.discard((row["stage"], row["recipe_id"]))
        self._record(row)
        if _is_trial(row):
            self._asker.tell(row)

    def search_rows(self) -> list[Row]:
        """Complete search-stage rows within the budget."""
        return [row for row in completed(self.rows.values(), "search") if _is_trial(row)]

    def _record(self, row: Row) -> None:
        key = (row["stage"], row["recipe_id"])
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
        if not self._trials_left:
            return None
        proposal = self._asker.next(self._number)
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
        slowest_first = sorted(confirmed(self.rows.values()), key=lambda row: -row["gflops"])  # none waits at the end
        proposals = [
            Proposal(number, "full", row["origin"], row["label"], Recipe.model_validate_json(row["recipe_json"]))
            for number, row in enumerate(slowest_first)
        ]
        return [p for p in proposals if p.key not in self.rows]


def _is_trial(row: Row) -> bool:
    return bool(row["stage"] == "search" and row["origin"] != "reference")
