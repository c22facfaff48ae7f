"""MLflow: one parent run a sweep, one child a row, logged by a thread of the driver.

Parquet is the record; MLflow is filled from it and may be down or deleted at any time. A row is
logged once: children carry their row's identity as a tag, and what is there already is left alone.
"""

import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycomp.config import SweepConfig
from raycomp.results.row import Row, cost_share, identity

if TYPE_CHECKING:
    from mlflow import MlflowClient

_EXPERIMENT = "raycomp"
_KEY, _PARENT, _SWEEP, _PATH = "raycomp.row", "mlflow.parentRunId", "raycomp.sweep", "raycomp.folder"
_KILLED = "KILLED"
_BAND = 10  # width of a budget band, percent of the dense GFLOPs
_METRICS = (
    "gflops", "gflops_share", "predicted_ms", "clean_miou", "corrupted_miou", "rpc", "effective_rank",
    "latency_ms", "throughput", "params", "seconds",
)  # fmt: skip


def tracking_uri(given: str | None, results: Path) -> str:
    """The tracking server of a job: the one given, else that of MLFLOW_TRACKING_URI, else `default_uri`."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(results)


def default_uri(results: Path) -> str:
    """SQLite in the results folder."""
    return f"sqlite:///{(results / 'mlflow.db').resolve()}"


class Tracker:
    """Logs rows in the background; any trouble with the server is told once and never raised."""

    def __init__(
        self, uri: str, folder: Path, config: SweepConfig, classes: Sequence[str], warn: Callable[[str], None]
    ) -> None:
        self._uri, self._folder, self._config, self._classes, self._warn = uri, folder, config, classes, warn
        self._queue: queue.SimpleQueue[Row | str | None] = queue.SimpleQueue()  # which signal handlers may use
        self._client: MlflowClient | None = None
        self._parent = ""
        self._logged: dict[str, str] = {}
        self._failed: set[str] = set()
        self._broken = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def log(self, row: Row) -> None:
        """Queue a row. The first one starts the thread: before, the cores are busy starting workers."""
        self._put(row)

    def killed(self) -> None:
        """Mark the sweep as killed as soon as the rows before are logged; `finish` may never come."""
        self._put(_KILLED)

    def finish(self, front: Iterable[Row], finished: bool) -> None:
        """Wait for the queue, mark the front and end the parent run; what was not finished counts as killed."""
        self._put(None)
        self._thread.join()
        self._guarded(lambda: self._finish(list(front), finished))

    def attach(self, artifacts: Iterable[Path]) -> None:
        """Add files to the parent run, after `finish`."""
        self._guarded(lambda: self._attach(list(artifacts)))

    def _put(self, item: Row | str | None) -> None:
        self._queue.put(item)
        if not self._thread.ident:
            self._thread.start()

    def _work(self) -> None:
        self._guarded(self._open)
        while (item := self._queue.get()) is not None:
            if isinstance(item, str):
                self._guarded(lambda status=item: self._end(status))  # type: ignore[misc]
            else:
                self._guarded(lambda row=item: self._log(row))  # type: ignore[misc]

    def _guarded(self, step: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            step()
        except Exception as error:  # whatever a server or database does, the sweep goes on
            self._broken = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._warn(f"MLflow at {self._uri} failed ({reason}); rows are safe, the same command fills it in later")

    def _open(self) -> None:
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # no migration notes between lines of progress
        from mlflow import MlflowClient  # slow to import, and only here

        client = MlflowClient(self._uri)
        experiment = client.get_experiment_by_name(_EXPERIMENT)
        where = (self._folder.parent / "mlartifacts").resolve().as_uri() if self._uri.startswith("sqlite") else None
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(_EXPERIMENT, where)
        self._client, self._experiment = client, experiment_id
        folder = str(self._folder.resolve())
        found = client.search_runs([experiment_id], f"tags.`{_PATH}` = '{folder}'", max_results=1)
        if found:
            self._parent = found[0].info.run_id
            client.update_run(self._parent, status="RUNNING")
            finished_last = sorted(self._children(client), key=lambda run: run.info.status == "FINISHED")
            self._logged = {run.data.tags[_KEY]: run.info.run_id for run in finished_last}
            self._failed = {run.data.tags[_KEY] for run in finished_last if run.info.status == "FAILED"}
            self._failed -= {run.data.tags[_KEY] for run in finished_last if run.info.status == "FINISHED"}
            return
        tags = {_SWEEP: self._config.name, _PATH: folder, "family": "sweep", "dataset": self._config.data.dataset}
        self._parent = client.create_run(experiment_id, tags=tags, run_name=self._folder.name).info.run_id
        self._batch(self._parent, params=_flat(self._config.model_dump(mode="json", exclude={"train"})))

    def _children(self, client: Any) -> Iterable[Any]:
        token: str | None = ""
        while token is not None:
            page = client.search_runs([self._experiment], f"tags.`{_PARENT}` = '{self._parent}'", page_token=token)
            yield from page
            token = page.token or None

    def _log(self, row: Row) -> None:
        assert self._client is not None
        key = identity(row)
        complete = row["status"] == "complete"
        if key in self._logged and not (complete and key in self._failed):  # what failed may run again
            return
        share = 0 if row.get("gflops") is None else cost_share(row)
        band = int(100 * share - 1e-9) // _BAND * _BAND
        tags = {
            _PARENT: self._parent,
            _KEY: key,
            _SWEEP: row["sweep"],
            "stage": row["stage"],
            "origin": row["origin"],
            "family": row["family"],
            "recipe_id": row["recipe_id"],
            "budget_band": f"{band}-{band + _BAND}%",
            "on_front": "false",
        }
        if row["stage"] == "benchmark":
            tags["method"] = row["origin"]
        name = f"{row['label'] or row['family']} {row['recipe_id'][:6]} {row['stage']}"
        run = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
        self._batch(run, params=_params(row), metrics=self._metrics(row))
        if complete:
            self._failed.discard(key)
            self._client.set_terminated(run, "FINISHED")
        else:
            self._client.set_tag(run, "error", row["error"] or "")
            self._client.set_terminated(run, "FAILED")
            self._failed.add(key)
        self._logged[key] = run

    def _metrics(self, row: Row) -> dict[str, float]:
        metrics = {name: row.get(name) for name in _METRICS}
        for index, value in enumerate(row.get("class_iou") or []):
            metrics[f"iou_{_safe(self._classes[index])}"] = value
        return {name: float(value) for name, value in metrics.items() if value is not None and value == value}

    def _batch(self, run: str, params: dict[str, str], metrics: dict[str, float] | None = None) -> None:
        from mlflow.entities import Metric, Param

        assert self._client is not None
        self._client.log_batch(
            run,
            metrics=[Metric(name, value, 0, 0) for name, value in (metrics or {}).items()],
            params=[Param(name, value) for name, value in params.items()],
        )

    def _attach(self, artifacts: list[Path]) -> None:
        assert self._client is not None
        for path in artifacts:
            self._client.log_artifact(self._parent, str(path))

    def _end(self, status: str) -> None:
        assert self._client is not None
        self._client.set_terminated(self._parent, status)

    def _finish(self, front: list[Row], finished: bool) -> None:
        assert self._client is not None
        self._end("FINISHED" if finished else _KILLED)
        members = {self._logged[key] for row in front if (key := identity(row)) in self._logged}
        before = {run.info.run_id for run in self._children(self._client) if run.data.tags.get("on_front") == "true"}
        for run in members ^ before:  # a longer sweep may push a member off
            self._client.set_tag(run, "on_front", str(run in members).lower())
        if front:
            best = {f"front_{name}": max(float(r[name]) for r in front) for name in ("clean_miou", "corrupted_miou")}
            self._batch(self._parent, params={}, metrics=best | {"front_size": float(len(front))})


def _params(row: Row) -> dict[str, str]:
    """Widths and ratios, one parameter a block, so that the UI can put each on an axis."""
    params = {"embed": str(row["embed"])}
    for name in ("setting", "seed", "recovery_steps"):
        if row["stage"] in ("benchmark", "refined"):
            params[name] = str(row[name])
    for kind in ("heads", "qk", "v", "mlp", "ratios"):
        name = "merge" if kind == "ratios" else kind
        for block, value in enumerate(row[kind]):
            params[f"{name}_{block:02d}"] = f"{value:.4g}" if kind == "ratios" else str(value)
    return params


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
