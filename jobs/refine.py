"""Fine-tune the front of a finished sweep with the dense model as teacher, and measure it on the full set.

    python jobs/refine.py --sweep streetscenes_vit_micro --steps 2000 --seeds 0,1,2
    ray job submit -- python jobs/refine.py --sweep ade20k_deit_base

Or measure it elsewhere, without training, as a sweep of its own that all commands read:

    python jobs/refine.py --sweep streetscenes_vit_micro --split test       # images that the search did not see
    python jobs/refine.py --sweep ade20k_deit_base --space OTHER.yaml       # another data set, size or checkpoint

Ctrl-C loses at most the steps since the last saved state; the same command goes on.
"""

import os
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: workers share the cores

import typer

from raycomp import config as configs
from raycomp import objectives
from raycomp.cli import guarded, interrupted
from raycomp.commands.inputs import Results, numbers, parts, runs_command, shape_of
from raycomp.errors import UserError
from raycomp.memory import leave_memory_to_the_system
from raycomp.report import tables
from raycomp.report.compare import rank_text
from raycomp.results.query import (
    agreement,
    check_measured,
    dense_row,
    final_front,
    front_volume,
    origins,
    refined_front,
)
from raycomp.results.row import Row
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import Tracker, tracking_uri
from raycomp.search import cluster, placement


def main(
    sweep: Annotated[str, typer.Option(help="Name of a finished sweep.")],
    steps: Annotated[int | None, typer.Option(help="Steps of each recipe, in place of refine.train.steps.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate, in place of refine.train.lr.")] = None,
    distill: Annotated[float | None, typer.Option(help="Weight of the dense model's answers; 0 for none.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, for example 0,1,2.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Refine only so many of the front.")] = None,
    recipes: Annotated[str, typer.Option(help="Refine only these of the front: ids, or prefixes of them.")] = "",
    workers: Annotated[int | None, typer.Option(help="Processes that train a recipe together.")] = None,
    space: Annotated[Path | None, typer.Option(help="Re-rank the front with another space's model and data.")] = None,
    split: Annotated[str | None, typer.Option(help="Re-rank the front on another split of the data, as cut.")] = None,
    results: Results = "results",
    tracking: Annotated[str | None, typer.Option(help="MLflow tracking URI; by default SQLite in the results.")] = None,
) -> None:
    """Refine the front of a sweep: table, picture, models in the sweep's folder."""
    console, folder = tables.console(), sweep_folder(results, sweep)
    store = Store(folder)
    config = store.config()
    if space or split:
        training = {"--steps": steps, "--lr": lr, "--distill": distill, "--seeds": seeds, "--workers": workers}
        for option, value in (training | {"--top": top, "--recipes": recipes or None}).items():
            if value is not None:
                raise UserError(f"{option} {value}: --space and --split measure the front as it is, without training")
        rerank(store, space, split, results, tracking)
        return
    train = config.refine.train.model_dump() | {k: v for k, v in (("steps", steps), ("lr", lr)) if v is not None}
    train["min_lr"] = min(train["min_lr"], train["lr"])
    wanted_seeds = None if seeds is None else [int(seed) for seed in numbers("--seeds", seeds, 0, 2**31)]
    config = config.changed("refine", train=train, distill=distill, seeds=wanted_seeds, workers=workers)
    rows, budget = store.rows(), config.search.budget
    if not final_front(rows, budget):
        raise UserError(f"{folder}: the sweep has no measured recipe within its budget; finish it first")
    store.lock.take()
    cluster.connect()
    # Bad input is told before these are imported: torch alone takes seconds.
    import ray
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from raycomp.refine.run import refine, wanted_of
    from raycomp.refine.training import Shared
    from raycomp.report.plot import plot_front
    from raycomp.search.base import check_same, prepare_base
    from raycomp.search.latency import with_latency
    from raycomp.search.scoring import scored_by_worker
    from raycomp.train import Standing, preloaded

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    placement.check_room(config, say)
    base = prepare_base(config, say, scorer=scored_by_worker)
    if config.search.limit == "latency":
        base = with_latency(base, folder, say)
    check_same([row for row in rows if row.stage != "benchmark"], base, folder)
    wanted = wanted_of(rows, budget, config.refine.seeds, top, parts(recipes))
    gpus = int(ray.cluster_resources().get("GPU", 0))
    count = config.refine.workers or gpus or int(ray.cluster_resources().get("CPU", 1))
    placement.check_training(count, gpus > 0, say)
    samples = preloaded(config.changed("train", **config.refine.train.model_dump()), config.refine.train.steps, say)
    shared = Shared(
        base=ray.put(base),
        samples=None if samples is None else ray.put(samples),
        config=config.refine,
        folder=folder.resolve(),
        mark=base.mark,
        workers=count,
        gpu=gpus > 0,
        max_failures=config.search.max_failures,
    )
    uri = tracking_uri(tracking, results)
    tracker = Tracker(
        uri, folder, store.config(), base.evalset.classes, lambda line: console.print(line, style="yellow")
    )
    cluster.stop_like_ctrl_c(tracker.killed)
    for row in rows:
        tracker.log(row)
    say(f"refining {len(wanted)} model(s) by {config.refine.train.steps} steps on {count} worker(s)")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total, measured = config.refine.train.steps, 0
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("refining", total=total * len(wanted))

        def on_step(index: int, at: Standing) -> None:
            name = f"{index + 1}/{len(wanted)} loss {at.loss:.3f}"
            bar.update(task, completed=index * total + at.step, description=name)
            if not console.is_terminal and at.step % max(1, total // 10) == 0:
                say(f"model {name}, step {at.step}/{total}")

        def on_row(row: Row) -> None:
            nonlocal measured
            measured += 1
            tracker.log(row)
            say(f"model {measured}/{len(wanted)} measured: {_line(row)}")

        try:
            refined = refine(shared, base, store, wanted, on_step, on_row)
        except KeyboardInterrupt:
            interrupted(tracker, say)
        except UserError:
            tracker.finish(None, finished=False)
            raise
    cluster.disconnect()
    found = list({one.found.recipe_id: one.found for one in wanted}.values())
    console.print(tables.refined_table(found, refined, dense_row(rows, found[0].stage)))
    picture = folder / "refined.png"
    rows = store.rows()
    plot_front(rows, budget, f"{config.name}: front as found and refined", picture)
    tracker.finish([*final_front(rows, budget), *refined_front(rows)], finished=True)
    tracker.attach([picture])
    say(f"models: {folder / 'refined'}/*.safetensors\nplot:   {picture}")
    say(f"runs:   {runs_command(uri)}")
    leave_memory_to_the_system()
    check_measured(refined)


def rerank(store: Store, space: Path | None, split: str | None, results: str, tracking: str | None) -> None:
    """Measure dense, baselines and front of a sweep elsewhere, and say how well their order holds."""
    console, rows, before = tables.console(), store.rows(), store.config()
    if not final_front(rows, before.search.budget):
        raise UserError(f"{store.folder}: the sweep has no measured recipe within its budget; finish it first")
    from raycomp.refine.transfer import Given, proposals, settings

    config = settings(store.folder.name, before, None if space is None else configs.load(space), split)
    shape, window = shape_of(config, space or store.folder / "sweep.yaml")
    wanted = proposals(rows, before.search.budget, shape, window)
    config = config.changed("search", trials=len(wanted))
    there = Store(sweep_folder(results, config.name))
    there.check(config)
    cluster.connect()
    from raycomp.report.found import Found
    from raycomp.report.html.page import write_page
    from raycomp.search.base import check_same, prepare_base
    from raycomp.search.latency import with_latency
    from raycomp.search.scoring import scored_by_worker
    from raycomp.search.sweep import run_sweep
    from raycomp.train import preloaded

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    placement.announce(config, say, say)
    base = prepare_base(config, say, scorer=scored_by_worker)
    for one in wanted[1:]:
        if base.elastic is not None and (problem := base.elastic.space.outside(one.recipe)):
            raise UserError(f"recipe {one.recipe.id}: outside of what the elastic model was trained over: {problem}")
    there.open(config)
    if config.search.limit == "latency":
        base = with_latency(base, there.folder, say)
    if done := there.rows():
        check_same(done, base, there.folder)
    samples = preloaded(config, config.recovery.steps, say)
    uri = tracking_uri(tracking, results)
    tracker = Tracker(uri, there.folder, config, base.evalset.classes, lambda line: console.print(line, style="yellow"))
    cluster.stop_like_ctrl_c(tracker.killed)
    for row in done:
        tracker.log(row)
    given, count = Given(wanted, done), len(wanted)
    where = f"{config.data.dataset} {config.data.eval_split}"
    say(f"measuring {given.remaining} of {count} recipes of {before.name} on {where}")

    def on_row(row: Row) -> None:
        tracker.log(row)
        say(f"recipe {count - given.remaining}/{count} measured: {_line(row)}")

    try:
        outcome = run_sweep(base, samples, there, given, on_row)
    except UserError:
        tracker.finish(None, finished=False)
        raise
    if not outcome.finished:
        interrupted(tracker, say)
    cluster.disconnect()
    found = Found(there.folder.name, config, outcome.rows)
    console.print(tables.front_table(found.comparisons, config.search.limit == "latency", origins(found.rows)))
    for objective, rho in agreement(rows, outcome.rows).items():
        say(f"{before.name} ranked {objective} as it is here: Spearman {rank_text(rho)}")
    page = there.folder / "report.html"
    write_page([found, Found(store.folder.name, before, rows)], page)
    there.finish()
    tracker.finish(found.front, True, front_volume(found.front, outcome.rows))
    tracker.attach([page])
    say(f"rows:   {there.folder / 'trials'}/*.parquet\nreport: {page}")
    say(f"runs:   {runs_command(uri)}")
    leave_memory_to_the_system()
    check_measured(outcome.rows)


def _line(row: Row) -> str:
    if row.status != "complete":
        return f"{row.recipe_id} seed {row.seed} failed: {row.error}"
    return f"{row.recipe_id} seed {row.seed}, {row.cost_share:.0%} of dense: {objectives.both(row)}"


if __name__ == "__main__":
    guarded(main)
