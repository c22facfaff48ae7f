"""How far a sweep is, told from its folder alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from raycomp.report.found import Found
from raycomp.results.store import Store, completed


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
    found, writer = Found.read(store), store.lock.holder()
    full = completed(found.rows, "full")
    ends = [row["started"] + timedelta(seconds=row["seconds"]) for row in found.rows if row["started"] is not None]
    over = len(found.trials) >= found.config.search.trials and bool(full)
    return Status(
        sweep=found.name,
        state="running" if writer else "finished" if over else "interrupted",
        trials=len(found.trials),
        wanted=found.config.search.trials,
        failed=sum(row["status"] == "failed" for row in found.rows),
        full=len(full),
        front=len(found.front),
        last=max(ends, default=None),
        writer=writer,
    )
