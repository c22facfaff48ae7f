# SPDX-License-Identifier: Apache-2.0
"""Status of a sweep, read from its folder alone."""

from dataclasses import dataclass
from datetime import datetime

from raycomp.report.sweep_view import SweepView
from raycomp.results.query import completed
from raycomp.results.store import Store


@dataclass(frozen=True)
class Status:
    """Status of a sweep."""

    sweep: str
    state: str
    """running, paused, stopping, finished, or interrupted; the same command resumes an interrupted sweep."""
    trials: int
    wanted: int
    failed: int
    full: int
    """Number of recipes measured on the full set."""
    front: int
    last: datetime | None
    """End of the latest row's trial."""
    writer: str
    """Process that writes to it; empty if none does."""


def status_of(store: Store) -> Status:
    """Read the status of a sweep; raise a UserError if the folder holds none."""
    view, writer = SweepView.read(store), store.lock.holder()
    full = completed(view.rows, "full")
    ends = [end for row in view.rows if (end := row.ended) is not None]
    planned = view.config.search.trials
    measured = len(view.trials) >= planned and len(full) > 1  # older sweeps are not marked as finished
    running = {"": "running", "pause": "paused", "stop": "stopping"}[store.steering.request()]
    return Status(
        sweep=view.name,
        state=running if writer else "finished" if store.is_finished or measured else "interrupted",
        trials=len(view.trials),
        wanted=planned,
        failed=sum(row.status == "failed" for row in view.rows),
        full=len(full),
        front=len(view.front),
        last=max(ends, default=None),
        writer=writer,
    )
