"""What every job on Ray shares: it joins the cluster, logs rows to MLflow, and ends both however it ends."""

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

if TYPE_CHECKING:  # torch takes seconds, which bad input need not wait for
    from raycomp.context.sweep_context import SweepContext

INTERRUPTED = 130
"""Exit code of a job that Ctrl-C or `ray job stop` ended with a usable result."""


class Session:
    """A job that runs on Ray: what it says, its results folder, and its MLflow run. See `session`."""

    def __init__(self, config: SweepConfig, store: Store, uri: str, console: Console) -> None:
        self.config, self.store, self.uri, self.console = config, store, uri, console
        self._tracker: Tracker | None = None
        self._ended = False
        self._leaving: Thread | None = None

    @property
    def folder(self) -> AnyPath:
        """The folder of the results."""
        return self.store.folder

    @property
    def tracking(self) -> bool:
        """Whether the MLflow run has started, and perhaps ended since."""
        return self._tracker is not None

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, highlight=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """Print a line in yellow."""
        self.console.print(line, style="yellow", highlight=False, soft_wrap=True)

    def prepared(self, rows: Sequence[Row], open_store: bool = True, **options: Any) -> "SweepContext":
        """Load the model and the data, and open the folder.

        Args:
            rows: those in the folder, which must be of the same model and images.
            open_store: whether to write the settings to the folder.
            options: of `prepare_context`.

        Raises:
            UserError: for a checkpoint or data set that does not fit, or that the rows were not measured with.
        """
        from raycomp.cluster.saliency_task import saliency_by_worker
        from raycomp.context.preparation import check_same, prepare_context

        context = prepare_context(self.config, self.say, scorer=saliency_by_worker, **options)
        check_same(rows, context, self.folder)
        if open_store:
            self.store.open(self.config)
        return context

    def timed(self, context: "SweepContext") -> "SweepContext":
        """Add the latency table that a limit of time needs, measured where the folder has none yet."""
        if self.config.search.cost_metric != "latency":
            return context
        from raycomp.cluster.latency_task import with_latency

        return with_latency(context, self.folder, self.say)

    def track(self, classes: Sequence[str], rows: Iterable[Row] = ()) -> Tracker:
        """Start the MLflow run, with the rows that there are already."""
        self._tracker = tracker = Tracker(self.uri, self.folder, self.config, classes, self.warn)
        connection.stop_like_ctrl_c(tracker.killed)
        for row in rows:
            tracker.log(row)
        return tracker

    def finish(self, front: Iterable[Row] | None, finished: bool, hypervolume: float | None = None) -> None:
        """End the MLflow run, unless it has ended or none was started; see `Tracker.finish`."""
        if self._tracker is not None and not self._ended:
            self._ended = True
            self._tracker.finish(front, finished, hypervolume)

    def leave(self) -> None:
        """Begin to leave the cluster, in a thread, as what follows needs it no more."""
        if self._leaving is None:
            self._leaving = Thread(target=connection.disconnect)
            self._leaving.start()

    def wait_until_left(self) -> None:
        """Wait until the cluster is left."""
        self.leave()
        if self._leaving is not None:
            self._leaving.join()


def share_cores() -> None:
    """Keep torch, which reads this as it is imported, to one thread a process: workers share the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@contextmanager
def session(config: SweepConfig, store: Store, uri: str, console: Console) -> Iterator[Session]:
    """Join the cluster for a block, and leave it afterwards; what the block did not finish counts as killed in MLflow.

    A block that Ctrl-C or `ray job stop` ends once its MLflow run has started exits with code 130: what is measured
    stays.

    Args:
        uri: of MLflow.
    """
    connection.connect()
    job = Session(config, store, uri, console)
    try:
        yield job
    except KeyboardInterrupt:
        if not job.tracking:
            raise
        job.warn("interrupted: the same command goes on from here")
        job.finish(None, finished=False)
        sys.exit(INTERRUPTED)
    except Exception:
        job.finish(None, finished=False)
        raise
    finally:
        job.wait_until_left()
        store.lock.drop()
        leave_memory_to_the_system()
