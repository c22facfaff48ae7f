"""How far a sweep is, told from its folder alone."""

from dataclasses import dataclass
from datetime import datetime

from raycomp.report.sweep_view import SweepView
from raycomp.results.query import completed
from raycomp.results.store import Store


@dataclass(frozen=True)
class Status:
    """A sweep's state: running, finished, or interrupted; the same command goes on with the last."""

    sweep: str
    state: str
    trials: int
    wanted: int
    failed: int
    full: int
    """Recipes measured on the full set."""
    front: int
    last: datetime | None
    """When the latest row ended."""
    writer: str
    """The process that writes to it."""

    @property
    def recency(self) -> float:
        """Seconds that grow with the latest row; 0 without rows."""
        return 0.0 if self.last is None else self.last.timestamp()


def status_of(store: Store) -> Status:
    """Read a sweep's state.

    Raises:
        UserError: where the folder holds no sweep.
    """
    found, writer = SweepView.read(store), store.lock.holder()
    full = completed(found.rows, "full")
    ends = [end for row in found.rows if (end := row.ended) is not None]
    wanted = found.config.search.trials
    measured = len(found.trials) >= wanted and len(full) > 1  # sweeps of before there was a mark
    return Status(
        sweep=found.name,
        state="running" if writer else "finished" if store.is_finished or measured else "interrupted",
        trials=len(found.trials),
        wanted=wanted,
        failed=sum(row.status == "failed" for row in found.rows),
        full=len(full),
        front=len(found.front),
        last=max(ends, default=None),
        writer=writer,
    )
