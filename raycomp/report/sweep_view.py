# SPDX-License-Identifier: Apache-2.0
"""A sweep as reports see it: settings, rows, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from raycomp.config import SweepConfig
from raycomp.report.compare import Comparison, compare
from raycomp.results.pareto import front, hypervolume
from raycomp.results.query import budget_share, completed, dense_row, final_front, final_stage
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.schedule import trials_spent


@dataclass(frozen=True)
class SweepView:
    """Settings and rows of a sweep, and queries on them."""

    name: str
    config: SweepConfig
    rows: Sequence[Row]

    @classmethod
    def read(cls, store: Store) -> "SweepView":
        """Read a sweep from its folder; raise a UserError if it holds none, or a file is unreadable."""
        return cls(store.folder.name, store.config(), store.rows())

    @property
    def share(self) -> float:
        """The budget, relative to the dense cost."""
        return budget_share(self.config.search.budget, self.rows)

    @cached_property
    def timed(self) -> bool:
        """Whether latency is the cost metric of any row."""
        return any(row.timed for row in self.rows)

    @cached_property
    def front(self) -> list[Row]:
        """Front members at the final stage, cheapest first."""
        return final_front(self.rows, self.share)

    @cached_property
    def stage(self) -> str:
        """The final stage, which the front is from."""
        return final_stage(self.rows)

    @cached_property
    def dense(self) -> Row | None:
        """The dense model's row at the final stage."""
        return dense_row(self.rows, self.stage)

    @cached_property
    def trials(self) -> list[Row]:
        """Rows of the search stage without the dense model, in proposal order."""
        rows = [row for row in self.rows if row.stage == "search" and row.origin != "reference"]
        return sorted(rows, key=lambda row: row.number)

    @property
    def spent(self) -> int:
        """Trials that the rows count as, rounded; see `trials_spent`."""
        return round(trials_spent(self.config, self.rows))

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The front compared with dense and the uniform baselines, with confidence intervals."""
        return compare(self.rows, self.share)

    @cached_property
    def hypervolumes(self) -> list[float]:
        """Hypervolume after each trial of the search stage; empty without a dense row.

        A hypervolume of 1 is a free model without errors.
        """
        dense, members, volumes = dense_row(self.rows, "search"), list[Row](), list[float]()
        if dense is None:
            return []
        for row in self.trials:
            if row.status == "complete":
                members = front([*members, row])
            volumes.append(hypervolume(members, dense.cost))
        return volumes

    def hypervolume(self) -> float | None:
        """Return the hypervolume after all trials; None without trials or a dense row."""
        return self.hypervolumes[-1] if self.hypervolumes else None


def difference(first: SweepView, other: SweepView) -> str:
    """Return why accuracies of two sweeps cannot be compared; empty if they can."""
    if first.stage != other.stage:
        return f"the {other.stage} stage in place of the {first.stage} one"
    for column, what in (("checkpoint", "other weights"), ("evalset", "other evaluation images")):
        values = [{getattr(row, column) for row in completed(view.rows, view.stage)} for view in (first, other)]
        if all(values) and values[0] != values[1]:
            return what
    same = first.config.search.cost_metric == other.config.search.cost_metric
    return "" if same else "another cost metric (GFLOPs, latency)"
