# SPDX-License-Identifier: Apache-2.0
"""MLflow replica: one parent run per sweep and one child run per row, logged by a thread of the driver.

A row is logged once: each child carries its row's identity as a tag, and complete runs are left unchanged.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from raycomp import objectives
from raycomp.config import SweepConfig
from raycomp.errors import logger
from raycomp.files import fetched
from raycomp.results import experiment
from raycomp.results.replica import Replica
from raycomp.results.row import Row
from raycomp.results.tracked_inputs import Inputs
from raycomp.results.tracked_rows import flat, metrics, note, params, started
from raycomp.storage import AnyPath, located

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_UNUSED = {"train", "elastic", "refine"}  # sections that do not affect measurements
_KEY, _PARENT, _SWEEP, _PATH = "raycomp.row", "mlflow.parentRunId", "raycomp.sweep", "raycomp.folder"
_STARTED = "raycomp.started"  # distinguishes a row from the one it replaced, as when a recipe is refined again
_KILLED = "KILLED"
_UNQUOTED = re.compile(r"[A-Za-z0-9.-]*$")
_BAND = 10  # width of a budget band, percent of the dense GFLOPs
_ENVIRONMENT = {
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # no migration notes between progress lines; the replica reports problems
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default retries for minutes: a server that is down would delay a job
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def tracking_uri(given: str | None, results: str) -> str:
    """Return the tracking URI of a job: the one given, else MLFLOW_TRACKING_URI, else `default_uri`."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(results)


def default_uri(results: str) -> str:
    """Return the URI of SQLite in the results folder; in local `results` if the results are in object storage."""
    folder = located(results)
    return experiment.sqlite_uri(((folder if isinstance(folder, Path) else Path("results")) / "mlflow.db").resolve())


class _Child(NamedTuple):
    """The run of a row."""

    run: str
    status: str
    """FINISHED, FAILED, or RUNNING if logging was interrupted."""
    started: str
    """Start of the row's trial; empty if unknown."""

    def measures(self, row: Row) -> bool:
        """Return whether the run is of this measurement, not of an earlier one of the same recipe."""
        return self.started in ("", started(row))


class Tracker(Replica):
    """Logs rows to MLflow in the background."""

    advice = "`raycomp track --backfill` adds missing rows later"

    def __init__(
        self, uri: str, folder: AnyPath, config: SweepConfig, classes: Sequence[str], warn: Callable[[str], None]
    ) -> None:
        super().__init__("MLflow", uri, warn)
        self._uri, self._folder, self._config, self._classes = uri, folder, config, classes
        self._client: MlflowClient  # since the first connection
        self._inputs: Inputs | None = None
        self._experiment, self._parent, self._described = "", "", False
        self._children: dict[str, _Child] = {}
        """Runs by the identity of their row."""

    def killed(self) -> None:
        """Mark the sweep as killed once the queued rows are logged; `finish` may never be called."""
        self._put(_KILLED)

    def finish(self, front: Iterable[Row] | None, finished: bool, hypervolume: float | None = None) -> bool:
        """End the parent run once all rows are logged, and mark the front; return whether everything is logged.

        An unfinished sweep counts as killed. A front of None leaves the marks unchanged. Sweeps are compared by the
        hypervolume of the front without refined rows.
        """
        done = self.close() and self.bounded(lambda: self._end("FINISHED" if finished else _KILLED))
        return done and (front is None or self.bounded(lambda: self._mark(list(front), hypervolume)))

    def attach(self, artifacts: Iterable[AnyPath]) -> None:
        """Add files to the parent run, after `finish`."""
        if self._connected:
            self.bounded(lambda: self._attach(list(artifacts)))

    def missing(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows without a matching run; changes nothing."""
        self._find()
        return [row for row in rows if not self._is_logged(row)]

    def delete(self) -> int:
        """Delete the sweep's runs, which MLflow keeps until `mlflow gc`; return how many."""
        self._find()
        if not self._parent:
            return 0
        runs = [run.info.run_id for run in self._pages(self._of_parent)] + [self._parent]
        for run in runs:  # the parent last, so that an interrupted deletion finds the rest
            self._client.delete_run(run)
        return len(runs)

    def connect(self) -> None:
        """Find or create the experiment and the parent run, and look up its children."""
        if (file := experiment.sqlite_file(self._uri)) is None:
            self._open()
        else:
            with FileLock(file.parent / ".mlflow.lock"):  # if processes create a database at once, all but one fail
                self._open()
        tags = {_SWEEP: self._config.name, _PATH: str(self._folder.resolve())}
        if self._parent:
            self._client.update_run(self._parent, status="RUNNING")
            for key, value in tags.items():  # older runs have their space's name; the folder may have moved
                self._client.set_tag(self._parent, key, value)
        else:
            tags |= {"family": "sweep", "dataset": self._config.data.dataset}
            self._parent = self._client.create_run(self._experiment, tags=tags, run_name=self._folder.name).info.run_id
        if not self._described:
            self._batch(self._parent, params=flat(self._config.model_dump(mode="json", exclude=_UNUSED)))
            self._described = True
        self._inputs = Inputs(self._client, self._experiment, self._config)

    def _open(self) -> None:
        """Find or create the experiment; put a damaged database aside."""
        if self._local is not None:
            experiment.clear(self._local, self._warn)
        self._find()
        self._experiment = experiment.opened(self._client, self._uri, self._warn)

    def _find(self) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # slow to import, and only needed here

        self._experiment, self._parent, self._described, self._children = "", "", False, {}
        if self._local is not None and experiment.damage(self._local):
            return  # unreadable, and creating a client already reads it
        self._client = MlflowClient(self._uri)
        if (active := experiment.active(self._client)) is None:
            return
        self._experiment = str(active.experiment_id)
        suffix = _UNQUOTED.findall(self._folder.resolve().name)[0]  # MLflow's filters cannot express every path
        candidates = list(self._pages(f"tags.`{_PATH}` LIKE '%{suffix}'"))
        parent = max(candidates, key=self._match, default=None)
        if parent is not None and self._match(parent):
            self._parent, self._described = parent.info.run_id, bool(parent.data.params)
            self._children = self._runs()

    def _match(self, run: "Run") -> int:
        """Rate whether a run is of this sweep: 2 if the folder matches, 1 if the name matches in a moved database."""
        path, ours = run.data.tags[_PATH], self._folder.resolve()
        if path == str(ours):
            return 2
        return int(self._local is not None and PurePosixPath(path).name == ours.name)

    @property
    def _local(self) -> Path | None:
        """The SQLite file beside the sweeps, which moves with them; None for other databases."""
        file = experiment.sqlite_file(self._uri)
        if file is None or not isinstance(self._folder, Path):
            return None
        return file if file.resolve().parent == self._folder.parent.resolve() else None

    def write(self, item: Row | str) -> None:
        """Log a row unless it is logged already; a string is the parent run's status."""
        if isinstance(item, str):
            self._end(item)
        elif not self._is_logged(item):
            self._log(item)

    def _is_logged(self, row: Row) -> bool:
        """Return whether the row's run is complete; a failed row may have been measured since, in another run."""
        child = self._children.get(row.identity)
        if child is None or not child.measures(row):
            return False
        return child.status == "FINISHED" or (child.status == "FAILED" and row.status == "failed")

    def _log(self, row: Row) -> None:
        key, complete = row.identity, row.status != "failed"
        before = self._children.get(key)
        if before is not None and before.measures(row) and before.status == "RUNNING":
            run = before.run  # logging was interrupted
        else:
            run = self._create(row)
        self._children[key] = _Child(run, "RUNNING", started(row))
        self._batch(run, params=params(row), metrics=metrics(row, self._classes))
        if self._inputs is not None and row.evalset and row.checkpoint:
            try:
                self._inputs.log(run, row)
                if row.origin == "reference":  # the inputs of the sweep as well
                    self._inputs.log(self._parent, row)
            except Exception:  # for example, an older server; tags name the inputs as well
                logger.debug("logging the inputs of a run", exc_info=True)
                self._inputs = None
        if not complete:
            self._client.set_tag(run, "error", row.error or "")
        status = "FINISHED" if complete else "FAILED"
        self._client.set_terminated(run, status)
        self._children[key] = _Child(run, status, started(row))
        if before is not None and not before.measures(row) and before.status != "FAILED":
            self._client.delete_run(before.run)  # the row replaced the one of this run

    def _runs(self) -> dict[str, _Child]:
        """Return the parent's children; for a row that failed and was measured again, the later one."""
        children: dict[str, _Child] = {}
        for run in self._pages(self._of_parent):
            child = _Child(run.info.run_id, run.info.status, run.data.tags.get(_STARTED, ""))
            key = run.data.tags[_KEY]
            children[key] = max(child, children.get(key, child), key=lambda c: (c.status == "FINISHED", c.started))
        return children

    @property
    def _of_parent(self) -> str:
        return f"tags.`{_PARENT}` = '{self._parent}'"

    def _pages(self, condition: str) -> Iterable["Run"]:
        page = self._client.search_runs([self._experiment], condition)
        yield from page
        while page.token:
            page = self._client.search_runs([self._experiment], condition, page_token=page.token)
            yield from page

    def _create(self, row: Row) -> str:
        """Create an empty run for a row, under its parent."""
        share = 0 if row.gflops is None else row.cost_share
        band = int(100 * share - 1e-9) // _BAND * _BAND
        tags = {_PARENT: self._parent, _KEY: row.identity, _STARTED: started(row), _SWEEP: row.sweep}
        tags |= {name: getattr(row, name) for name in ("stage", "status", "origin", "family", "recipe_id")}
        tags |= {"budget_band": f"{band}-{band + _BAND}%", "on_front": "false"}
        if row.stage == "benchmark":
            tags["method"] = row.origin
        name = f"{row.recipe_id[:6]} {row.kind}, {row.stage}"  # MLflow's columns cut off the end
        return str(self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id)

    def _batch(self, run: str, params: dict[str, str], metrics: dict[str, float] | None = None) -> None:
        from mlflow.entities import Metric, Param

        now = int(1e3 * time.time())  # MLflow shows the latest value, the largest among equal times
        self._client.log_batch(
            run,
            metrics=[Metric(name, value, now, 0) for name, value in (metrics or {}).items()],
            params=[Param(name, value) for name, value in params.items()],
        )

    def _attach(self, artifacts: list[AnyPath]) -> None:
        for path in artifacts:
            with fetched(path) as local:
                self._client.log_artifact(self._parent, str(local))

    def _end(self, status: str) -> None:
        self._client.set_terminated(self._parent, status)

    def _mark(self, front: list[Row], hypervolume: float | None) -> None:
        members = {self._children[key].run for row in front if (key := row.identity) in self._children}
        before = {run.info.run_id for run in self._pages(self._of_parent) if run.data.tags.get("on_front") == "true"}
        for run in members ^ before:  # more trials may remove a member
            self._client.set_tag(run, "on_front", str(run in members).lower())
        if unrefined := [row for row in front if row.stage != "refined"]:
            best = {"front_size": float(len(unrefined))}
            for one in objectives.measured():
                best[f"front_{one.name}"] = (max if one.maximised else min)(map(one.value, unrefined))
            if hypervolume is not None:
                best["front_hypervolume"] = hypervolume
            self._batch(self._parent, params={}, metrics=best)
        if front:
            self._client.set_tag(self._parent, "mlflow.note.content", note(front))
