# SPDX-License-Identifier: Apache-2.0
"""Run the comparison as Ray tasks: find every operating point, then measure every run. Finished work is reused.

Only the driver writes results, so workers on other machines need no shared folder. The checkpoint of an unfinished
recovery stays where its worker runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from raycomp.benchmark.conditions import Condition, Run, conditions, runs
from raycomp.benchmark.operating_points import OperatingPoint, built, find, fingerprint_of, from_front
from raycomp.benchmark.single_run import Measured, failed_row, measure_run, unreachable
from raycomp.benchmark.timing import Timing, time_points
from raycomp.cluster.connection import finished, prepare_worker, remote, result
from raycomp.cluster.latency_task import latency_table
from raycomp.compress.saliency import Saliency
from raycomp.config import SweepConfig
from raycomp.context.sweep_context import SweepContext
from raycomp.data.samples import Samples
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.models import checkpoints
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.rows import git_commit
from raycomp.storage import AnyPath

_POINTS = "settings"  # folder of the operating points in the results; earlier versions wrote it, too


@dataclass(frozen=True)
class BenchmarkInputs:
    """Inputs of every task."""

    context: Any
    """Reference to the `SweepContext` in the object store."""
    samples: Any
    """Reference to training scenes drawn once; None if workers read the data set's files."""
    folder: AnyPath
    config: SweepConfig


def find_operating_points(
    inputs: BenchmarkInputs,
    front: Sequence[Row] | None,
    scores: Saliency | None,
    context: SweepContext,
    say: Callable[[str], None],
) -> dict[Condition, OperatingPoint]:
    """Return the operating point of every condition; read points that were found earlier from the folder.

    Args:
        front: front of a finished sweep, for the method `found`.
        scores: saliency scores that the sweep prunes by.

    Raises:
        UserError: for points found with other weights or images, or a method that the token grid does not allow.
    """
    folder = inputs.folder / _POINTS
    every = conditions(inputs.config.benchmark, front is not None)
    points: dict[Condition, OperatingPoint] = {}
    for condition in every:
        point = None
        if condition.method == "found" and front is not None and scores is not None:
            point = from_front(front, scores, context, condition)
        elif condition.method != "found":
            point = OperatingPoint.load(folder, condition, fingerprint_of(context, condition))
        if point is not None:
            points[condition] = point
    missing = [condition for condition in every if condition not in points]
    table = _latency_table(inputs, say) if missing and inputs.config.nvit.latency_weight else None
    task = remote(_find, inputs.config, retries=2)
    waiting = {task.remote(inputs.context, inputs.samples, condition, table): condition for condition in missing}
    for done in finished(waiting):
        condition, point = waiting[done], result(done)
        point.save(folder, condition, fingerprint_of(context, condition))
        points[condition] = point
        missed = "" if point.reached else f", which misses the target of {point.target:.4g}"
        say(f"point {len(points)}/{len(every)}: {condition.label}: {point.text} at {point.gflops:.4g} GFLOPs{missed}")
    return points


def measure_runs(
    inputs: BenchmarkInputs,
    points: dict[Condition, OperatingPoint],
    store: Store,
    context: SweepContext,
    on_row: Callable[[Row, int], None],
) -> None:
    """Measure the runs without a row; `on_row` receives every row, old and new, and the total number of rows."""
    every = [run for run in runs(inputs.config.benchmark, True) if run.condition in points]
    waiting: dict[Any, Run] = {}
    task = remote(_measure, inputs.config, retries=inputs.config.search.max_failures)
    done_before = {(row.label, row.seed): row for row in store.rows() if row.status == "complete"}
    for run in every:
        point, row = points[run.condition], done_before.get((run.condition.label, run.seed))
        if row is not None and _same(row, point):
            on_row(row, len(every))
        elif not point.reached:
            on_row(_failed(store, context, run, point, unreachable(point)), len(every))
        else:
            arguments = (inputs.context, inputs.samples, run, point, _state(inputs, run), git_commit())
            waiting[task.remote(*arguments)] = run
    for done in finished(waiting):
        run = waiting[done]
        try:
            measured: Measured = ray.get(done)
        except RayError as error:  # the worker died more often than Ray retries
            row = _failed(store, context, run, points[run.condition], f"{type(error).__name__}: the worker died")
        else:
            row = measured.row
            _keep(inputs, context, run, points[run.condition], measured)
            store.write(row)
            _state(inputs, run).unlink(missing_ok=True)
        on_row(row, len(every))


def measure_speed(inputs: BenchmarkInputs, points: dict[Condition, OperatingPoint]) -> list[Timing]:
    """Time all points in turn, in one worker and with nothing else running."""
    task = remote(_time, inputs.config, retries=0)
    timings: list[Timing] = result(task.remote(inputs.context, {k: v for k, v in points.items() if v.reached}))
    return timings


def _same(row: Row, point: OperatingPoint) -> bool:
    """Return whether a row measures this point; adaptive merging may have been matched again after the recovery."""
    return bool(row.target_gflops == point.target) and (point.recipe.adaptive or row.recipe_id == point.recipe.id)


def _state(inputs: BenchmarkInputs, run: Run) -> AnyPath:
    return inputs.folder / "states" / f"{run.condition.slug}-seed{run.seed}.pt"


def _keep(inputs: BenchmarkInputs, context: SweepContext, run: Run, point: OperatingPoint, measured: Measured) -> None:
    """Write the pictures and the model of the first seed."""
    if measured.pictures is not None:
        measured.pictures.save(inputs.folder / "pictures" / f"{run.condition.slug}.npz")
    if measured.weights is not None:
        model = built(context, point)
        model.load_state_dict({k: torch.tensor(v) for k, v in measured.weights.items()}, strict=False, assign=True)
        model.encoder.sharer = None  # the policy has its own file
        metadata = {
            "label": run.condition.label,
            "setting": measured.row.operating_point or "",
            "recovery": str(measured.row.recovery_steps),
        }
        checkpoints.save(model, inputs.folder / "models" / f"{run.condition.slug}.safetensors", metadata)


def _failed(store: Store, context: SweepContext, run: Run, point: OperatingPoint, problem: str) -> Row:
    row = failed_row(context, run, point, problem)
    store.write(row)
    return row


def _latency_table(inputs: BenchmarkInputs, say: Callable[[str], None]) -> LatencyTable:
    """Return the latency table of NViT's latency term."""
    path, batch = inputs.folder / _POINTS / "latency.json", inputs.config.evaluation.batch
    return latency_table(path, inputs.context, inputs.config, batch, merging=False, report=say)


def _find(
    context: SweepContext, samples: Samples | None, condition: Condition, latency: LatencyTable | None
) -> OperatingPoint:
    return find(context, condition, prepare_worker(), latency, samples)


def _measure(
    context: SweepContext, samples: Samples | None, run: Run, point: OperatingPoint, state: AnyPath, commit: str
) -> Measured:
    return measure_run(context, samples, run, point, state, prepare_worker(), commit)


def _time(context: SweepContext, points: dict[Condition, OperatingPoint]) -> list[Timing]:
    return time_points(context, points, prepare_worker())
