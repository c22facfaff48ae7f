"""Run a sweep: Ray Tune schedules trials that the proposer hands out, and rows go to the store.

Tune's own snapshots are not used: a sweep goes on from its rows (see `raycomp.search.proposer`).
"""

import tempfile
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from raycomp.cluster.connection import trial_resources, workers
from raycomp.context.sweep_context import SweepContext
from raycomp.data.samples import Samples
from raycomp.errors import UserError
from raycomp.results.query import check_measured
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.actor import Trial
from raycomp.search.proposal import Proposal, Source
from raycomp.search.rows import described, failed, git_commit


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    rows: list[Row]
    finished: bool
    """False after an interruption; the same command goes on."""


def run_sweep(
    context: SweepContext,
    samples: Samples | None,
    store: Store,
    proposer: Source,
    on_row: Callable[[Row], None],
    trial: type[tune.Trainable] = Trial,
) -> Outcome:
    """Run trials until the proposer has no more; `cluster.connect` comes first.

    Args:
        samples: training images of the recovery; None lets each worker open the data set's own.
        on_row: called in the driver with each finished row, complete or failed.
        trial: what measures; it writes its row to the store.

    Raises:
        UserError: where a row could not be written, another job has taken the folder over, or the dense model
            could not be measured.
    """
    config = context.config
    parameters = {"context": context, "samples": samples, "folder": store.folder.resolve(), "commit": git_commit()}
    resources = {name.lower(): amount for name, amount in trial_resources(config).items()}  # as Tune calls them
    searcher = _Searcher(proposer, store, context, on_row)
    with tempfile.TemporaryDirectory(prefix="raycomp-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trial, **parameters), resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=workers(config),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=config.name,
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    if searcher.problem:
        raise UserError(f"{searcher.problem}; what is measured stays, and the same command goes on")
    return Outcome(rows=list(proposer.rows.values()), finished=proposer.finished)


class _Searcher(Searcher):
    """Tune's view of the proposer."""

    def __init__(self, proposer: Source, store: Store, context: SweepContext, on_row: Callable[[Row], None]) -> None:
        super().__init__()
        self._proposer, self._store, self._context, self._on_row = proposer, store, context, on_row
        self._running: dict[str, Proposal] = {}
        self._deaths: Counter[tuple[str, str]] = Counter()
        self._replay: deque[Proposal] = deque()
        self._lost: dict[tuple[str, str], str] = {}
        """Why the worker of a trial ended, where it could still say so."""
        self.problem = ""
        """Why no more trials are proposed, where that is not for the sweep's own reasons."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher into snapshots, but the rows are the state."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if self._store.lock.lost():
            self.problem = f"results folder {self._store.folder}: another job has taken it over"
        if self.problem:
            return Searcher.FINISHED
        proposal = self._replay.popleft() if self._replay else self._proposer.next()
        if proposal is None:
            return Searcher.FINISHED if self._proposer.finished else None
        self._running[trial_id] = proposal
        return proposal.to_config()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep a worker's last words: out of memory, or a device that does not compute any more."""
        if result.get("lost"):
            self._lost[self._running[trial_id].key] = result["lost"]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the proposer; the row in the store is the result."""
        proposal = self._running.pop(trial_id)
        if result and result.get("problem"):
            self.problem = result["problem"]
            return
        try:
            row = self._store.read(*proposal.key)
            if row is None and error:
                row = self._died(proposal)
        except UserError as unwritable:
            self.problem = str(unwritable)
            return
        if row is None:  # to be run again; or stopped before it could finish, and the next command proposes it again
            return
        self._proposer.tell(row)
        self._on_row(row)
        try:
            check_measured([row] if row.is_dense else [])
        except UserError as without_dense:  # nothing to judge the other trials by: they need not run
            self.problem = str(without_dense)

    def _died(self, proposal: Proposal) -> Row | None:
        """Have a trial whose worker died run again, or write its row where that was once too often.

        Tune's own retries leave out workers that die between two trials.
        """
        self._deaths[proposal.key] += 1
        times = self._deaths[proposal.key]
        if times <= self._context.config.search.max_failures:
            self._replay.append(proposal)
            return None
        why = self._lost.get(proposal.key)
        text = f"the trial's worker died {times} times, of too little memory maybe (search.max_failures)"
        if why is not None:
            text = f"the trial ended its worker {times} times (search.max_failures), the last time by {why}"
        row = failed(described(self._context, proposal), text)
        self._store.write(row)
        return row

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing; see `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `__getstate__`."""
