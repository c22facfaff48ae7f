# SPDX-License-Identifier: Apache-2.0
"""Status of a sweep, read from its folder alone."""

from dataclasses import dataclass
from datetime import datetime

from raycomp.report.pace import seconds_left, workers
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
    workers: int
    """Trials that ran at once, by the latest rows."""
    left: float | None
    """Seconds until it ends, at the pace of the latest rows; None if no search runs, or after too few rows."""


def status_of(store: Store, view: SweepView | None = None) -> Status:
    """Read the status of a sweep, or take its rows from `view`; raise a UserError if the folder holds none."""
    view, writer = view or SweepView.read(store), store.lock.holder()
    full = completed(view.rows, "full")
    ends = [end for row in view.rows if (end := row.ended) is not None]
    planned = view.config.search.trials
    measured = view.spent >= planned and len(full) > 1  # older sweeps are not marked as finished
    running = {"": "running", "pause": "paused", "stop": "stopping"}[store.steering.request()]
    searching = bool(writer) and running == "running" and store.steering.listening()
    return Status(
        sweep=view.name,
        state=running if writer else "finished" if store.is_finished or measured else "interrupted",
        trials=view.spent,
        wanted=planned,
        failed=sum(row.status == "failed" for row in view.rows),
        full=len(full),
        front=len(view.front),
        last=max(ends, default=None),
        writer=writer,
        workers=workers(view.rows),
        left=seconds_left(view.config, view.rows) if searching else None,
    )
