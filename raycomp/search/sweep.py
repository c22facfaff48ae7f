# SPDX-License-Identifier: Apache-2.0
"""Run a sweep: Ray Tune schedules the proposer's trials in reused actors, which write rows to the store.

Tune's snapshots are not used: a sweep resumes from its rows (see `raycomp.search.proposer`).
"""

import signal
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from raycomp.cluster.connection import prepare_worker, trial_resources, workers
from raycomp.context.sweep_context import SweepContext
from raycomp.data.samples import Samples
from raycomp.errors import UserError
from raycomp.results.query import check_measured
from raycomp.results.row import Row
from raycomp.results.steering import Request
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal, Source
from raycomp.search.rows import described, failed, git_commit
from raycomp.search.trial import DeviceLost, run_trial
from raycomp.storage import AnyPath


class Trial(tune.Trainable):
    """An actor that keeps the model and data in memory; each step measures one recipe and writes its row."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], context: SweepContext, samples: Samples | None, folder: AnyPath, commit: str
    ) -> None:
        self._context, self._samples, self._store, self._commit = context, samples, Store(folder), commit
        self._problem = self._lost = ""
        try:
            self._device = prepare_worker()
        except UserError as error:  # reported by the first step, since Tune retries a failed setup
            self._problem = str(error)
        self.reset_config(config)

    def step(self) -> dict[str, Any]:
        """Measure. The result may hold `problem`, which ends the sweep, or `lost`, which ends this actor."""
        if self._lost:
            raise RuntimeError(self._lost)  # makes Tune end the actor
        if self._problem:
            return {"done": True, "problem": self._problem}
        try:
            folder = self._store.folder
            row = run_trial(self._context, self._samples, self._proposal, folder, self._device, self._commit)
            self._store.write(row)
        except DeviceLost as error:  # return a result first: exceptions of actors do not reach the searcher
            self._lost = str(error)
            return {"done": False, "lost": self._lost}
        except UserError as error:  # the row cannot be written, so measuring again would not help
            return {"done": True, "problem": str(error)}
        return {"done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._proposal: Proposal = new_config["proposal"]
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: a trial is one step, and its row is the result."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """Do nothing."""


def run_sweep(
    context: SweepContext,
    samples: Samples | None,
    store: Store,
    proposer: Source,
    on_row: Callable[[Row], None],
    trial: type[tune.Trainable] = Trial,
    on_request: Callable[[Request], None] = lambda _: None,
) -> None:
    """Run trials until the proposer is finished or the sweep is stopped. Call `connection.connect` first.

    Args:
        samples: Training images for the recovery; None makes each worker open the training split.
        on_row: Called in the driver with each finished row, complete or failed.
        trial: The actor class that measures and writes rows to the store.
        on_request: Called in the driver when someone asks the sweep to stop, to pause, or to go on.

    Raises:
        UserError: If a row cannot be written, another job takes over the folder, or the dense model cannot be measured.
    """
    config = context.config
    parameters = {"context": context, "samples": samples, "folder": store.folder.resolve(), "commit": git_commit()}
    resources = {name.lower(): amount for name, amount in trial_resources(config).items()}  # Tune's names
    searcher = _Searcher(proposer, store, context, on_row, on_request)
    with tempfile.TemporaryDirectory(prefix="raycomp-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trial, **parameters), resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, max_concurrent_trials=workers(config), reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name=config.name,
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        store.ask("")
        try:
            tuner.fit()
        finally:
            store.steering.end()
    if searcher.problem:
        raise UserError(f"{searcher.problem}; measured trials are kept, and the same command resumes")


class _Searcher(Searcher):
    """Tune's view of the proposer."""

    def __init__(
        self,
        proposer: Source,
        store: Store,
        context: SweepContext,
        on_row: Callable[[Row], None],
        on_request: Callable[[Request], None],
    ) -> None:
        super().__init__()
        self._proposer, self._store, self._context, self._on_row = proposer, store, context, on_row
        self._on_request = on_request
        self._request: Request = ""
        self._before, self._handled = signal.getsignal(signal.SIGINT), False
        """The handler of Ctrl-C before Tune's, and whether Tune has set its own, as it does in the main thread."""
        self._running: dict[str, Proposal] = {}
        self._deaths: Counter[tuple[str, str]] = Counter()
        self._retries: deque[Proposal] = deque()
        self._lost: dict[tuple[str, str], str] = {}
        """Why the worker of a trial ended, where it could report it."""
        self.problem = ""
        """The error that ends the sweep early; empty if there is none."""

    def __getstate__(self) -> dict[str, Any]:
        """Return no state: Tune pickles its searcher into snapshots, but the rows are the state."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if self._store.lock.lost():
            self.problem = f"results folder {self._store.folder}: another job has taken it over"
        self._look_at_request()
        interrupted = self._interrupted()
        if self.problem or self._request == "stop":
            return Searcher.FINISHED
        if self._request == "pause" and not self._proposer.finished:
            return Searcher.FINISHED if interrupted else None
        proposal = self._retries.popleft() if self._retries else self._proposer.next()
        if proposal is None:
            return Searcher.FINISHED if self._proposer.finished else None
        self._running[trial_id] = proposal
        return {"proposal": proposal}

    def _look_at_request(self) -> None:
        """Report a new request, and heed it from now on. A stop cannot be withdrawn, as Tune asks no more."""
        if (request := self._store.steering.request()) != self._request:
            self._request = request
            self._on_request(request)

    def _interrupted(self) -> bool:
        """Return whether Ctrl-C was pressed: Tune then puts the handler back, but looks only after a trial."""
        ours = signal.getsignal(signal.SIGINT) is self._before
        self._handled |= not ours
        return self._handled and ours

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep a worker's last message: out of memory, or a device that no longer computes."""
        if result.get("lost"):
            self._lost[self._running[trial_id].key] = result["lost"]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report the row, which the trial wrote to the store, to the proposer."""
        proposal = self._running.pop(trial_id)
        if result and result.get("problem"):
            self.problem = result["problem"]
            return
        try:
            row = self._store.read(*proposal.key)
            if row is None and error:
                row = self._retry_or_fail(proposal)
            if row is None:  # queued for another try, or interrupted and proposed again by the next command
                return
            self._proposer.tell(row)
            self._on_row(row)
            check_measured([row] if row.is_dense else [])  # without it, other trials have no reference
        except UserError as problem:
            self.problem = str(problem)

    def _retry_or_fail(self, proposal: Proposal) -> Row | None:
        """Queue a trial whose worker died for another try, or write a failed row after too many.

        Tune's own retries miss workers that die between two trials.
        """
        self._deaths[proposal.key] += 1
        times = self._deaths[proposal.key]
        if times <= self._context.config.search.max_failures:
            self._retries.append(proposal)
            return None
        if reason := self._lost.get(proposal.key):
            text = f"the trial ended its worker {times} times (search.max_failures), the last time with {reason}"
        else:
            text = f"the trial's worker died {times} times, perhaps out of memory (search.max_failures)"
        row = failed(described(self._context, proposal), text)
        self._store.write(row)
        return row

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        """Do nothing; see `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see `__getstate__`."""
