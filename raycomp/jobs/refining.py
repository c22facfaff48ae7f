# SPDX-License-Identifier: Apache-2.0
"""Fine-tune the front of a finished sweep, and measure it on the full set."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raycomp import objectives
from raycomp.cluster import placement
from raycomp.context.sweep_context import SweepContext
from raycomp.jobs.session import Session
from raycomp.refine.finetuning import RefineInputs, Target
from raycomp.refine.front import front_targets, refine
from raycomp.report import tables
from raycomp.report.plot import plot_front
from raycomp.results.query import dense_row, final_front, refined_front
from raycomp.results.row import Row
from raycomp.training_loop import TrainingProgress, preloaded


def refine_front(session: Session, rows: Sequence[Row], top: int | None, ids: Sequence[str]) -> list[Row]:
    """Fine-tune and measure the front's recipes, and print and plot them beside their earlier results.

    Args:
        rows: The rows of the sweep.
        top: See `front_targets`.
        ids: See `front_targets`.

    Raises:
        UserError: If the cluster has no room, no member of the front has a prefix, or a training diverges.
    """
    config, store, say = session.config, session.store, session.say
    placement.check_room(config, session.warn)
    context = session.prepared([row for row in rows if row.stage != "benchmark"], open_store=False)
    targets = front_targets(rows, config.search.budget, config.refine.seeds, top, ids)
    inputs = _inputs(session, context)
    tracker = session.track(context.evalset.classes, rows)
    measured: list[Row] = []

    def on_row(row: Row) -> None:
        measured.append(row)
        tracker.log(row)
        say(f"model {len(measured)}/{len(targets)} measured: {line(row)}")

    say(f"refining {len(targets)} model(s) by {config.refine.train.steps} steps on {inputs.workers} worker(s)")
    with _progress(session, len(targets)) as on_step:
        refined = refine(inputs, context, store, targets, on_step, on_row)
    session.leave()
    _report(session, targets, refined)
    tracker.attach([session.folder / "refined.png"])
    say(f"models: {session.folder / 'refined'}/*.safetensors\nplot:   {session.folder / 'refined.png'}")
    return refined


def line(row: Row) -> str:
    """Format a row in one line: recipe, seed, cost and mIoU in percent, or its error."""
    if row.status != "complete":
        return f"{row.recipe_id} seed {row.seed} failed: {row.error}"
    return f"{row.recipe_id} seed {row.seed}, {row.cost_share:.0%} of dense: {objectives.both(row)}"


def _inputs(session: Session, context: SweepContext) -> RefineInputs:
    """Return the inputs of the workers; by default there is one worker per GPU, or per CPU without GPUs."""
    config, resources = session.config, ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = config.refine.workers or gpus or int(resources.get("CPU", 1))
    placement.check_training(workers, gpus > 0, session.warn)
    trained = config.changed("train", **config.refine.train.model_dump())
    samples = preloaded(trained, config.refine.train.steps, session.say)
    return RefineInputs(
        context=ray.put(context),
        samples=None if samples is None else ray.put(samples),
        config=config.refine,
        folder=session.folder.resolve(),
        fingerprint=context.fingerprint,
        workers=workers,
        gpu=gpus > 0,
        max_failures=config.search.max_failures,
    )


@contextmanager
def _progress(session: Session, models: int) -> Iterator[Callable[[int, TrainingProgress], None]]:
    """Show the progress of all trainings: a bar in a terminal, occasional lines elsewhere."""
    total = session.config.refine.train.steps
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=session.console) as bar:
        task = bar.add_task("refining", total=total * models)

        def on_step(index: int, at: TrainingProgress) -> None:
            name = f"{index + 1}/{models} loss {at.loss:.3f}"
            bar.update(task, completed=index * total + at.step, description=name)
            if not session.console.is_terminal and at.step % max(1, total // 10) == 0:
                session.say(f"model {name}, step {at.step}/{total}, {at.seconds:.2f} s")

        yield on_step


def _report(session: Session, targets: Sequence[Target], refined: Sequence[Row]) -> None:
    """Print and plot the refined recipes, and end the MLflow run."""
    before = list({target.row.recipe_id: target.row for target in targets}.values())
    rows, budget = session.store.rows(), session.config.search.budget
    session.console.print(tables.refined_table(before, list(refined), dense_row(rows, before[0].stage)))
    title = f"{session.config.name}: front before and after refinement"
    plot_front(rows, budget, title, session.folder / "refined.png")
    session.finish([*final_front(rows, budget), *refined_front(rows)], finished=True)
