"""Run a sweep: Ray Tune schedules trials that the proposer hands out, and rows go to the store.

Tune's own snapshots are not used: a sweep goes on from its rows (see `raycomp.search.proposer`).
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from raycomp.config import SweepConfig
from raycomp.data.samples import Samples
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.actor import Trial
from raycomp.search.base import Base
from raycomp.search.cluster import gpus_per_trial
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.search.trial import described, git_commit


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    rows: list[Row]
    finished: bool
    """False after an interruption; the same command goes on."""


def run_sweep(
    base: Base, samples: Samples | None, store: Store, proposer: Proposer, on_row: Callable[[Row], None]
) -> Outcome:
    """Run trials until the proposer has no more; `cluster.connect` comes first.

    Args:
        samples: training images of the recovery; None lets each worker open the data set's own.
        on_row: called in the driver with each finished row, complete or failed.
    """
    config = base.config
    parameters = {"base": base, "samples": samples, "folder": str(store.folder.resolve()), "commit": git_commit()}
    with tempfile.TemporaryDirectory(prefix="raycomp-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(Trial, **parameters), _resources(config)),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(proposer, store, base, on_row),
                num_samples=-1,
                max_concurrent_trials=workers(config),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=config.name,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=config.search.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    return Outcome(rows=list(proposer.rows.values()), finished=proposer.finished)


def _resources(config: SweepConfig) -> dict[str, float]:
    return {"cpu": 1, "gpu": gpus_per_trial(config)}


def workers(config: SweepConfig) -> int:
    """Trials at a time: as configured, or as many as the cluster's GPUs or CPUs hold."""
    if config.search.workers is not None:
        return config.search.workers
    total = ray.cluster_resources()
    if gpus := gpus_per_trial(config):
        return max(1, int(total.get("GPU", 0) / gpus))
    return max(1, int(total.get("CPU", 1)))


class _Searcher(Searcher):
    """Tune's view of the proposer."""

    def __init__(self, proposer: Proposer, store: Store, base: Base, on_row: Callable[[Row], None]) -> None:
        super().__init__()
        self._proposer, self._store, self._base, self._on_row = proposer, store, base, on_row
        self._running: dict[str, Proposal] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher into snapshots, but the rows are the state."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        proposal = self._proposer.next()
        if proposal is None:
            return Searcher.FINISHED if self._proposer.finished else None
        self._running[trial_id] = proposal
        return proposal.to_config()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        del result  # the row in the store is the result
        proposal = self._running.pop(trial_id)
        row = None if error else self._store.read(*proposal.key)
        if row is None:
            if not error:  # stopped before it could finish: the next run proposes it again
                return
            row = described(self._base, proposal) | {"status": "failed", "error": "the trial's worker died"}
            self._store.write(row)
        self._proposer.tell(row)
        self._on_row(row)

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing; see `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `__getstate__`."""
