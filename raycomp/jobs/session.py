# SPDX-License-Identifier: Apache-2.0
"""The session of every job on Ray: join the cluster, log rows to MLflow, and close both in every case."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

from rich.console import Console

from raycomp.cluster import connection
from raycomp.config import SweepConfig
from raycomp.memory import leave_memory_to_the_system
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.results.tracking import Tracker
from raycomp.storage import AnyPath

if TYPE_CHECKING:  # importing torch takes seconds, and errors in input are reported before
    from raycomp.context.sweep_context import SweepContext

INTERRUPTED = 130
"""Exit code of a job ended by Ctrl-C or `ray job stop` with a usable result."""


class Session:
    """A job on Ray with its output, results folder and MLflow run. See `session`."""

    def __init__(self, config: SweepConfig, store: Store, uri: str, console: Console) -> None:
        self.config, self.store, self.uri, self.console = config, store, uri, console
        self._tracker: Tracker | None = None
        """The tracker of the active MLflow run."""
        self.tracked = False
        """Whether the MLflow run has started; it may have ended."""
        self._leaving: Thread | None = None

    @property
    def folder(self) -> AnyPath:
        """The results folder."""
        return self.store.folder

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, highlight=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """Print a line in yellow."""
        self.console.print(line, style="yellow", highlight=False, soft_wrap=True)

    def prepared(
        self, rows: Sequence[Row], open_store: bool = True, timed: bool = True, **options: Any
    ) -> "SweepContext":
        """Load the model and data, and open the results folder.

        Args:
            rows: Existing rows, which must belong to the same model and images.
            open_store: Whether to write the settings to the folder.
            timed: Whether to add the latency table, from the folder or measured, if the search needs it.
            options: Arguments of `prepare_context`.

        Raises:
            UserError: If checkpoint and data set do not fit together, or the rows were measured with others.
        """
        from raycomp.cluster.latency_task import with_latency
        from raycomp.cluster.saliency_task import saliency_by_worker
        from raycomp.context.preparation import check_same, prepare_context

        context = prepare_context(self.config, self.say, scorer=saliency_by_worker, **options)
        check_same(rows, context, self.folder)
        if open_store:
            self.store.open(self.config)
        needed = timed and self.config.search.needs_times
        return with_latency(context, self.folder, self.say) if needed else context

    def track(self, classes: Sequence[str], rows: Iterable[Row] = ()) -> Tracker:
        """Start the MLflow run and log existing rows."""
        self._tracker = tracker = Tracker(self.uri, self.folder, self.config, classes, self.warn)
        self.tracked = True
        connection.stop_like_ctrl_c(tracker.killed)
        for row in rows:
            tracker.log(row)
        return tracker

    def finish(self, front: Iterable[Row] | None, finished: bool, hypervolume: float | None = None) -> None:
        """End the MLflow run if it is active; see `Tracker.finish`."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.finish(front, finished, hypervolume)

    def leave(self) -> Thread:
        """Start leaving the cluster in a thread, or return the thread that does."""
        if self._leaving is None:
            self._leaving = Thread(target=connection.disconnect)
            self._leaving.start()
        return self._leaving


def share_cores() -> None:
    """Limit torch to one thread per process, as workers share the cores. Call before importing torch."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@contextmanager
def session(config: SweepConfig, store: Store, uri: str, console: Console) -> Iterator[Session]:
    """Join the cluster for a block and leave it afterwards; an unfinished MLflow run is marked as killed.

    If Ctrl-C or `ray job stop` ends the block after its MLflow run has started, exit with code 130.

    Args:
        uri: MLflow tracking URI.
    """
    store.steering.end()  # of a search that was killed
    connection.connect()
    job = Session(config, store, uri, console)
    try:
        yield job
    except KeyboardInterrupt:
        if not job.tracked:
            raise
        job.warn("interrupted: run the same command to resume")
        job.finish(None, finished=False)
        sys.exit(INTERRUPTED)
    except Exception:
        job.finish(None, finished=False)
        raise
    finally:
        job.leave().join()
        store.lock.drop()
        leave_memory_to_the_system()
