"""A sweep as its page and its comparisons see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from raycomp.config import SweepConfig
from raycomp.report.compare import dense_row, final_front
from raycomp.results.row import Row, cost
from raycomp.results.store import Store, completed
from raycomp.search.pareto import hypervolume


@dataclass(frozen=True)
class Found:
    """Settings and rows of a sweep."""

    name: str
    config: SweepConfig
    rows: Sequence[Row]

    @classmethod
    def read(cls, store: Store) -> "Found":
        """A sweep from its folder.

        Raises:
            UserError: for a folder without a sweep, or a file that is no row.
        """
        return cls(store.folder.name, store.config(), store.rows())

    @property
    def share(self) -> float:
        """The limit, relative to the dense cost."""
        return self.config.search.budget

    @cached_property
    def front(self) -> list[Row]:
        """Members, cheapest first, at the last stage there is."""
        return final_front(self.rows, self.share)

    @cached_property
    def stage(self) -> str:
        """Of the front."""
        return str(self.front[0]["stage"]) if self.front else "search"

    @cached_property
    def dense(self) -> Row | None:
        """The dense model's row of that stage."""
        return dense_row(self.rows, self.stage)

    @cached_property
    def trials(self) -> list[Row]:
        """Rows of the search but for the dense model's, in the order of their proposal."""
        found = [row for row in self.rows if row["stage"] == "search" and row["origin"] != "reference"]
        return sorted(found, key=lambda row: int(row["number"]))

    def hypervolume(self, trials: int | None = None) -> float:
        """Of the first so many trials, by the search stage; 1 would be a free model without errors."""
        whole = dense_row(self.rows, "search")
        if whole is None:
            return 0.0
        return hypervolume(completed(self.trials[:trials], "search"), cost(whole))


def named(row: Row) -> str:
    """What a row is called where its id stands beside it."""
    return str(row["label"] or row["family"])


def difference(first: Found, other: Found) -> str:
    """Why accuracies of two sweeps are not of the same thing; empty where they are."""
    for column, what in (("checkpoint", "other weights"), ("evalset", "other evaluation images")):
        marks = [{row.get(column) for row in completed(found.rows, found.stage)} for found in (first, other)]
        if all(marks) and marks[0] != marks[1]:
            return what
    return "" if first.config.search.limit == other.config.search.limit else "another limit (GFLOPs, time)"
