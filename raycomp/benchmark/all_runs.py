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
from raycomp.cluster.connection import finished, remote, result
from raycomp.cluster.latency_task import latency_table
from raycomp.compress.saliency import Saliency
from raycomp.config import SweepConfig
from raycomp.context.sweep_context import SweepContext
from raycomp.evaluate.latency_error import TABLE_FILE
from raycomp.models import checkpoints
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.rows import git_commit
from raycomp.storage import AnyPath

_POINTS = "settings"  # folder of the operating points in the results


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
        front: Front of a finished sweep, for the method `found`.
        scores: Saliency scores that the sweep prunes by.

    Raises:
        UserError: If points were found with other weights or images, or the token grid does not support a method.
    """
    config, folder = inputs.config, inputs.folder / _POINTS
    every = conditions(config.benchmark, front is not None)
    points: dict[Condition, OperatingPoint] = {}
    for condition in every:
        if condition.method == "found" and front is not None and scores is not None:
            points[condition] = from_front(front, scores, context, condition)
        elif point := OperatingPoint.load(folder, condition, fingerprint_of(context, condition)):
            points[condition] = point
    missing = [condition for condition in every if condition not in points]
    table = None  # for NViT's latency term
    if missing and config.nvit.latency_weight:
        table = latency_table(folder / TABLE_FILE, inputs.context, config, pruning=True, report=say)
    task = remote(find, config, retries=2)
    waiting = {
        task.remote(inputs.context, condition, latency=table, samples=inputs.samples): condition
        for condition in missing
    }
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
    task = remote(measure_run, inputs.config, retries=inputs.config.search.max_failures)
    done_before = {(row.label, row.seed): row for row in store.rows() if row.status == "complete"}

    def fail(run: Run, problem: str) -> None:
        row = failed_row(context, run, points[run.condition], problem)
        store.write(row)
        on_row(row, len(every))

    for run in every:
        point, row = points[run.condition], done_before.get((run.condition.label, run.seed))
        if row is not None and _same(row, point):
            on_row(row, len(every))
        elif not point.reached:
            fail(run, unreachable(point))
        else:
            arguments = (inputs.context, inputs.samples, run, point, _state(inputs, run))
            waiting[task.remote(*arguments, commit=git_commit())] = run
    for done in finished(waiting):
        run = waiting[done]
        try:
            measured: Measured = ray.get(done)
        except RayError as error:  # the worker died more often than Ray retries
            fail(run, f"{type(error).__name__}: the worker died")
            continue
        _keep(inputs, context, run, points[run.condition], measured)
        store.write(measured.row)
        _state(inputs, run).unlink(missing_ok=True)
        on_row(measured.row, len(every))


def measure_speed(inputs: BenchmarkInputs, points: dict[Condition, OperatingPoint]) -> list[Timing]:
    """Time all points in turn, in one worker and with nothing else running."""
    reached = {condition: point for condition, point in points.items() if point.reached}
    timings: list[Timing] = result(remote(time_points, inputs.config, retries=0).remote(inputs.context, reached))
    return timings


def _same(row: Row, point: OperatingPoint) -> bool:
    """Return whether a row measures this point; after a recovery, adaptive merging may have another strength."""
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
