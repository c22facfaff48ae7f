# SPDX-License-Identifier: Apache-2.0
"""Compare the paper's methods at matched GFLOPs: find operating points, measure, time, and write the page."""

from collections.abc import Sequence

import ray

from raycomp import objectives
from raycomp.benchmark.all_runs import BenchmarkInputs, find_operating_points, measure_runs, measure_speed
from raycomp.benchmark.conditions import conditions
from raycomp.cluster import placement
from raycomp.cluster.saliency_task import saliency_by_worker
from raycomp.context.calibration import cached_scores
from raycomp.errors import last_line
from raycomp.jobs.session import Session
from raycomp.report.benchmark_page import write_benchmark_page
from raycomp.results.query import check_measured
from raycomp.results.row import Row
from raycomp.settings.section import Criterion
from raycomp.training_loop import preloaded


def benchmark(session: Session, front: Sequence[Row] | None, criterion: Criterion | None) -> None:
    """Find every method's operating points, measure and time them, and write the page.

    Args:
        front: Front of a finished sweep, which is included.
        criterion: Criterion that the sweep pruned by.

    Raises:
        UserError: If the sweep is of another checkpoint, a method does not support the grid, or nothing was measured.
    """
    config, say = session.config, session.say
    placement.announce(config, say, session.warn)
    with_policy = any(condition.needs_policy for condition in conditions(config.benchmark, with_found=False))
    context = session.prepared(
        session.store.rows(), timed=False, with_policy=with_policy, criterion=config.nvit.criterion
    )
    samples = preloaded(config, max(config.benchmark.recovery.steps, config.nvit.training_steps), say)
    drawn = None if samples is None else ray.put(samples)
    shared = BenchmarkInputs(ray.put(context), drawn, session.folder.resolve(), config)
    tracker = session.track(context.evalset.classes)
    measured: list[Row] = []

    def on_row(row: Row, total: int) -> None:
        measured.append(row)
        tracker.log(row)
        say(f"run {len(measured)}/{total}: {_line(row)}")

    scores = None
    if front is not None and criterion is not None:
        inputs = f"{context.checkpoint}-{context.evalset.fingerprint}"
        scores = cached_scores(context.model, config, criterion, inputs, say, saliency_by_worker)
    points = find_operating_points(shared, front, scores, context, say)
    measure_runs(shared, points, session.store, context, on_row)
    try:
        timings = measure_speed(shared, points)
    except ray.exceptions.RayError as error:  # for example too little memory for all models together
        timings = []
        say(f"no speeds: {last_line(error)}")
    session.leave()
    check_measured(measured)
    written = write_benchmark_page(session.folder, context, points, measured, timings)
    session.finish(None, finished=True)
    tracker.attach([session.folder / "sweep.yaml", *written])
    say(f"page:  {written[0]}\nrows:  {session.folder / 'trials'}/*.parquet")


def _line(row: Row) -> str:
    if row.status != "complete":
        return f"{row.label} failed: {row.error}"
    return f"{row.label}, seed {row.seed}: {row.gflops:.4g} GFLOPs, {objectives.both(row)}, {row.seconds:.0f} s"
