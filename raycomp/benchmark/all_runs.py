"""Run the comparison as Ray tasks: find every point, then measure every run; what is done is not done again.

Only the driver writes results, so that workers on other machines need no shared folder; a recovery under way
is kept where its worker runs.
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
from raycomp.benchmark.timing import Timing, time_settings
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


@dataclass(frozen=True)
class Shared:
    """What every task needs."""

    context: Any
    """Reference to the `SweepContext` in the object store."""
    samples: Any
    """Reference to training scenes drawn once; None where workers read the data set's own files."""
    folder: AnyPath
    config: SweepConfig


def find_operating_points(
    shared: Shared,
    front: Sequence[Row] | None,
    scores: Saliency | None,
    context: SweepContext,
    say: Callable[[str], None],
) -> dict[Condition, OperatingPoint]:
    """The point of every condition, from the folder where it was found before.

    Args:
        front: of a finished sweep, for the condition `found`.
        scores: those that the sweep cuts by.

    Raises:
        UserError: for points found with other weights or images, or a method that cannot work on the grid.
    """
    folder = shared.folder / "points"
    wanted = conditions(shared.config.benchmark, front is not None)
    known: dict[Condition, OperatingPoint] = {}
    for condition in wanted:
        point = None
        if condition.method == "found" and front is not None and scores is not None:
            point = from_front(front, scores, context, condition)
        elif condition.method != "found":
            point = OperatingPoint.load(folder, condition, fingerprint_of(context, condition))
        if point is not None:
            known[condition] = point
    missing = [condition for condition in wanted if condition not in known]
    table = _latency_table(shared, say) if missing and shared.config.nvit.latency_weight else None
    task = remote(_find, shared.config, retries=2)
    waiting = {task.remote(shared.context, shared.samples, condition, table): condition for condition in missing}
    for done in finished(waiting):
        condition, point = waiting[done], result(done)
        point.save(folder, condition, fingerprint_of(context, condition))
        known[condition] = point
        short = "" if point.reached else f", which misses the target of {point.target:.4g}"
        say(f"point {len(known)}/{len(wanted)}: {condition.label}: {point.text} at {point.gflops:.4g} GFLOPs{short}")
    return known


def measure_runs(
    shared: Shared,
    points: dict[Condition, OperatingPoint],
    store: Store,
    context: SweepContext,
    on_row: Callable[[Row, int], None],
) -> None:
    """Measure what has no row yet; `on_row` gets every row, old and new, and how many there will be."""
    wanted = [run for run in runs(shared.config.benchmark, True) if run.condition in points]
    waiting: dict[Any, Run] = {}
    task = remote(_measure, shared.config, retries=shared.config.search.max_failures)
    done_before = {(row.label, row.seed): row for row in store.rows() if row.status == "complete"}
    for run in wanted:
        point, row = points[run.condition], done_before.get((run.condition.label, run.seed))
        if row is not None and _same(row, point):
            on_row(row, len(wanted))
        elif not point.reached:
            on_row(_failed(store, context, run, point, unreachable(point)), len(wanted))
        else:
            arguments = (shared.context, shared.samples, run, point, _state(shared, run), git_commit())
            waiting[task.remote(*arguments)] = run
    for done in finished(waiting):
        run = waiting[done]
        try:
            found: Measured = ray.get(done)
        except RayError as error:  # its worker died more often than it is tried again
            row = _failed(store, context, run, points[run.condition], f"{type(error).__name__}: the worker died")
        else:
            row = found.row
            _keep(shared, context, run, points[run.condition], found)
            store.write(row)
            _state(shared, run).unlink(missing_ok=True)
        on_row(row, len(wanted))


def measure_speed(shared: Shared, points: dict[Condition, OperatingPoint]) -> list[Timing]:
    """Time all points in one worker, taking turns, with nothing else running."""
    task = remote(_time, shared.config, retries=0)
    timings: list[Timing] = result(task.remote(shared.context, {k: v for k, v in points.items() if v.reached}))
    return timings


def _same(row: Row, point: OperatingPoint) -> bool:
    """Whether a row is of this point; adaptive merging may have been matched again after the recovery."""
    return bool(row.target_gflops == point.target) and (point.recipe.adaptive or row.recipe_id == point.recipe.id)


def _state(shared: Shared, run: Run) -> AnyPath:
    return shared.folder / "states" / f"{run.condition.slug}-seed{run.seed}.pt"


def _keep(shared: Shared, context: SweepContext, run: Run, point: OperatingPoint, found: Measured) -> None:
    """Write the first seed's pictures and model."""
    if found.pictures is not None:
        found.pictures.save(shared.folder / "pictures" / f"{run.condition.slug}.npz")
    if found.weights is not None:
        model = built(context, point)
        model.load_state_dict({k: torch.tensor(v) for k, v in found.weights.items()}, strict=False, assign=True)
        model.encoder.sharer = None  # the policy has a file of its own
        facts = {
            "label": run.condition.label,
            "setting": found.row.operating_point or "",
            "recovery": str(found.row.recovery_steps),
        }
        checkpoints.save(model, shared.folder / "models" / f"{run.condition.slug}.safetensors", facts)


def _failed(store: Store, context: SweepContext, run: Run, point: OperatingPoint, problem: str) -> Row:
    row = failed_row(context, run, point, problem)
    store.write(row)
    return row


def _latency_table(shared: Shared, say: Callable[[str], None]) -> LatencyTable:
    """The table of NViT's latency term."""
    path, batch = shared.folder / "points" / "latency.json", shared.config.evaluation.batch
    return latency_table(path, shared.context, shared.config, batch, merging=False, report=say)


def _find(
    context: SweepContext, samples: Samples | None, condition: Condition, latency: LatencyTable | None
) -> OperatingPoint:
    return find(context, condition, prepare_worker(), latency, samples)


def _measure(
    context: SweepContext, samples: Samples | None, run: Run, point: OperatingPoint, state: AnyPath, commit: str
) -> Measured:
    return measure_run(context, samples, run, point, state, prepare_worker(), commit)


def _time(context: SweepContext, points: dict[Condition, OperatingPoint]) -> list[Timing]:
    return time_settings(context, points, prepare_worker())
