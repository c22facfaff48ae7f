"""Fine-tune the front of a finished sweep with the dense model as teacher, and measure it on the full set."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raycomp import objectives
from raycomp.cluster import placement
from raycomp.context.sweep_context import SweepContext
from raycomp.jobs.session import Session
from raycomp.refine.finetuning import Shared
from raycomp.refine.front import Wanted, refine, wanted_of
from raycomp.report import tables
from raycomp.report.plot import plot_front
from raycomp.results.query import dense_row, final_front, refined_front
from raycomp.results.row import Row
from raycomp.training_loop import Standing, preloaded


def refine_front(session: Session, top: int | None, ids: Sequence[str]) -> list[Row]:
    """Fine-tune and measure the front's recipes, print them beside what they were, and draw both.

    Args:
        top: of a larger front, as many as add most hypervolume.
        ids: only these, by prefixes of their ids; all where there is none.

    Raises:
        UserError: for a cluster without room, a prefix that no member of the front has, or a training that diverges.
    """
    config, store, say = session.config, session.store, session.say
    placement.check_room(config, session.warn)
    rows = store.rows()
    context = session.prepared([row for row in rows if row.stage != "benchmark"], open_store=False)
    context = session.timed(context)
    wanted = wanted_of(rows, config.search.budget, config.refine.seeds, top, ids)
    shared = _shared(session, context)
    tracker = session.track(context.evalset.classes, rows)
    measured: list[Row] = []

    def on_row(row: Row) -> None:
        measured.append(row)
        tracker.log(row)
        say(f"model {len(measured)}/{len(wanted)} measured: {line(row)}")

    say(f"refining {len(wanted)} model(s) by {config.refine.train.steps} steps on {shared.workers} worker(s)")
    with _progress(session, len(wanted)) as on_step:
        refined = refine(shared, context, store, wanted, on_step, on_row)
    session.leave()
    _report(session, wanted, refined)
    tracker.attach([session.folder / "refined.png"])
    say(f"models: {session.folder / 'refined'}/*.safetensors\nplot:   {session.folder / 'refined.png'}")
    return refined


def line(row: Row) -> str:
    """A measured row in one line: recipe, seed, cost, mIoU in percent; or why it failed."""
    if row.status != "complete":
        return f"{row.recipe_id} seed {row.seed} failed: {row.error}"
    return f"{row.recipe_id} seed {row.seed}, {row.cost_share:.0%} of dense: {objectives.both(row)}"


def _shared(session: Session, context: SweepContext) -> Shared:
    """What the workers need, on as many of them as configured, or as there are GPUs, or CPUs."""
    config, has = session.config, ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    workers = config.refine.workers or gpus or int(has.get("CPU", 1))
    placement.check_training(workers, gpus > 0, session.warn)
    trained = config.changed("train", **config.refine.train.model_dump())
    samples = preloaded(trained, config.refine.train.steps, session.say)
    return Shared(
        context=ray.put(context),
        samples=None if samples is None else ray.put(samples),
        config=config.refine,
        folder=session.folder.resolve(),
        mark=context.mark,
        workers=workers,
        gpu=gpus > 0,
        max_failures=config.search.max_failures,
    )


@contextmanager
def _progress(session: Session, models: int) -> Iterator[Callable[[int, Standing], None]]:
    """Show how far all trainings together are: a bar in a terminal, a line now and then elsewhere."""
    total = session.config.refine.train.steps
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=session.console) as bar:
        task = bar.add_task("refining", total=total * models)

        def on_step(index: int, at: Standing) -> None:
            name = f"{index + 1}/{models} loss {at.loss:.3f}"
            bar.update(task, completed=index * total + at.step, description=name)
            if not session.console.is_terminal and at.step % max(1, total // 10) == 0:
                session.say(f"model {name}, step {at.step}/{total}")

        yield on_step


def _report(session: Session, wanted: Sequence[Wanted], refined: Sequence[Row]) -> None:
    """Print what was refined, draw it, and end the MLflow run."""
    found = list({one.found.recipe_id: one.found for one in wanted}.values())
    rows, budget = session.store.rows(), session.config.search.budget
    session.console.print(tables.refined_table(found, list(refined), dense_row(rows, found[0].stage)))
    plot_front(rows, budget, f"{session.config.name}: front as found and refined", session.folder / "refined.png")
    session.finish([*final_front(rows, budget), *refined_front(rows)], finished=True)
