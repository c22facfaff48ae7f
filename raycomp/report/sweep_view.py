"""A sweep as its page and its comparisons see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from raycomp.config import SweepConfig
from raycomp.report.compare import Comparison, compare
from raycomp.results.pareto import front, hypervolume
from raycomp.results.query import completed, dense_row, final_front, final_stage
from raycomp.results.row import Row
from raycomp.results.store import Store


@dataclass(frozen=True)
class SweepView:
    """Settings and rows of a sweep."""

    name: str
    config: SweepConfig
    rows: Sequence[Row]

    @classmethod
    def read(cls, store: Store) -> "SweepView":
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
        return final_stage(self.rows)

    @cached_property
    def dense(self) -> Row | None:
        """The dense model's row of that stage."""
        return dense_row(self.rows, self.stage)

    @cached_property
    def trials(self) -> list[Row]:
        """Rows of the search but for the dense model's, in the order of their proposal."""
        found = [row for row in self.rows if row.stage == "search" and row.origin != "reference"]
        return sorted(found, key=lambda row: row.number)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The front beside dense and baselines, with its intervals."""
        return compare(self.rows, self.share)

    @cached_property
    def hypervolumes(self) -> list[float]:
        """After each trial, by the search stage; 1 would be a free model without errors. Empty without a dense row.

        Only a front is carried on.
        """
        whole, members, volumes = dense_row(self.rows, "search"), list[Row](), list[float]()
        if whole is None:
            return []
        for row in self.trials:
            if row.status == "complete":
                members = front([*members, row])
            volumes.append(hypervolume(members, whole.cost))
        return volumes

    def hypervolume(self) -> float | None:
        """After all trials; None without any, or without a dense model to relate costs to."""
        return self.hypervolumes[-1] if self.hypervolumes else None


def named(row: Row) -> str:
    """What a row is called where its id stands beside it."""
    return row.label or row.family


def difference(first: SweepView, other: SweepView) -> str:
    """Why accuracies of two sweeps are not of the same thing; empty where they are."""
    if first.stage != other.stage:
        return f"the {other.stage} stage in place of the {first.stage} one"
    for column, what in (("checkpoint", "other weights"), ("evalset", "other evaluation images")):
        marks = [{getattr(row, column) for row in completed(found.rows, found.stage)} for found in (first, other)]
        if all(marks) and marks[0] != marks[1]:
            return what
    return "" if first.config.search.cost_metric == other.config.search.cost_metric else "another limit (GFLOPs, time)"
