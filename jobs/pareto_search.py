"""Search the Pareto front of prune-then-merge recipes of a model under a limit of GFLOPs, or of time.

    python jobs/pareto_search.py --space search_spaces/streetscenes_vit_micro.yaml --budget 60% --trials 60
    ray job submit -- python jobs/pareto_search.py

Ctrl-C leaves a usable result; the same command goes on from it.
"""

import os
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: workers share the cores

import typer

from raycomp import config as configs
from raycomp.cli import INTERRUPTED, guarded
from raycomp.commands.inputs import print_json, results_option, runs_command, shape_of
from raycomp.errors import UserError
from raycomp.memory import leave_memory_to_the_system
from raycomp.recipe import dense
from raycomp.report import tables
from raycomp.report.compare import rank_text
from raycomp.report.published import comparability
from raycomp.results.mirror import Mirror
from raycomp.results.query import (
    at_budgets,
    check_measured,
    final_front,
    final_stage,
    first_agreement,
    front_volume,
    origins,
    refined_front,
    stage_agreement,
)
from raycomp.results.row import Row
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import Tracker, tracking_uri
from raycomp.search import cluster, placement
from raycomp.search.space import Space
from raycomp.shape import ModelShape

_DEFAULT_SPACE = Path(__file__).resolve().parents[1] / "search_spaces" / "streetscenes_vit_micro.yaml"


def main(
    space: Annotated[Path, typer.Option(help="Search space file.")] = _DEFAULT_SPACE,
    budget: Annotated[str | None, typer.Option(help="Limit as a share of dense, for example 50%.")] = None,
    limit: Annotated[str | None, typer.Option(help="What is limited: gflops, or latency on this device.")] = None,
    trials: Annotated[int | None, typer.Option(help="Recipes to measure.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep; by default the space's.")] = None,
    results: Annotated[str, typer.Option(help="Folder for results, or a URI: s3://bucket/results.")] = "results",
    seed: Annotated[int | None, typer.Option(help="Seed of the proposals.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at a time.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs of a trial; 0.25 packs four on one.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow tracking URI; by default SQLite in the results.")] = None,
    study: Annotated[str | None, typer.Option(help="Optuna's storage, for example postgresql://HOST/NAME.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and what it takes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: as JSON.")] = False,
) -> None:
    """Search, print the front, draw it, and say how to open MLflow on it."""
    if as_json and not dry_run:
        raise UserError("--json goes with --dry-run; what a sweep found, raycomp front NAME --json tells")
    config = configs.load(space, budget=budget, limit=limit, trials=trials, seed=seed, workers=workers)
    config = config.changed("search", gpus_per_trial=gpus)
    console = tables.console()
    folder = sweep_folder(results, name or config.name)
    config = config.model_copy(update={"name": folder.name})  # by which rows, runs and studies are told apart
    store = Store(folder)
    if dry_run:
        _say_plan(config, store, space, as_json)
        return
    store.check(config)
    timed = config.search.limit == "latency"
    if (shape := config.model.shape) is not None and not timed:  # what cannot be met is told before anything is loaded
        grid = _grid(config, shape)
        grid.check_budget(config.search.budget * grid.cost(dense(shape)))
    from raycomp.models import checkpoints

    checkpoints.locate(config.model.checkpoint)
    if config.model.elastic is not None:
        checkpoints.locate(config.model.elastic, "model.elastic")
    cluster.connect()
    # Bad input is told before these are imported: torch alone takes seconds.
    from raycomp.report.found import Found
    from raycomp.report.html.page import write_page
    from raycomp.report.plot import plot_front
    from raycomp.report.progress import SweepProgress
    from raycomp.search.base import check_same, prepare_base
    from raycomp.search.latency import with_latency
    from raycomp.search.proposer import Proposer
    from raycomp.search.scoring import scored_by_worker
    from raycomp.search.study import StudyCopy, study_uri
    from raycomp.search.sweep import run_sweep
    from raycomp.train import preloaded

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    def warn(line: str) -> None:
        console.print(line, style="yellow", highlight=False, soft_wrap=True)

    placement.announce(config, say, warn, "--gpus")
    base = prepare_base(config, say, scorer=scored_by_worker)
    store.open(config)
    if timed:
        base = with_latency(base, folder, say)
    rows = store.rows()
    measurable = None if base.elastic is None else base.elastic.space
    proposer = Proposer(replace(_grid(config, base.shape), latency=base.latency), config.search, rows, measurable)
    if rows:
        check_same(rows, base, folder)
        say(f"{folder}: found {proposer.trials_done} of {config.search.trials} trials, going on")
    say(f"trials to run: {proposer.agenda}")
    samples = preloaded(config, config.recovery.steps, say)
    uri = tracking_uri(tracking, results)
    tracker = Tracker(uri, folder, config, base.evalset.classes, warn)
    cluster.stop_like_ctrl_c(tracker.killed)
    copies: list[Mirror] = [tracker]
    if (storage := study_uri(study, folder)) is not None:
        copies.append(StudyCopy(storage, config.name, proposer.space, warn))
    for copy in copies:
        for row in rows:
            copy.log(row)

    with SweepProgress(proposer, console) as progress:

        def on_row(row: Row) -> None:
            for copy in copies:
                copy.log(row)
            progress.row(row)

        try:
            outcome = run_sweep(base, samples, store, proposer, on_row)
        except UserError:
            tracker.finish(None, finished=False)
            raise

    if outcome.finished:
        store.finish()
    leaving = Thread(target=cluster.disconnect)
    leaving.start()
    share = config.search.budget
    rows = store.rows()  # with those that were written while the sweep was stopped
    members = final_front(rows, share)
    # First MLflow: a stopped Ray job has seconds to end.
    tracker.finish([*members, *refined_front(rows)], outcome.finished, front_volume(members, rows))
    for copy in copies[1:]:
        copy.close()
    found = Found(folder.name, config, rows)
    console.print(tables.front_table(found.comparisons, timed, origins(rows)))
    if budgets := at_budgets(rows, config.search.known, share):
        console.print(tables.budget_table(budgets, origins(rows)))
    for objective, rho in first_agreement(rows).items():
        say(f"first images ranked {objective} like the whole search stage: Spearman {rank_text(rho)}")
    if stopped := sum(row.status == "stopped" for row in rows):
        say(f"stopped after the first images, as they could not reach the front: {stopped} trials")
    for objective, rho in stage_agreement(rows).items():
        say(f"search stage ranked {objective} like the full set: Spearman {rank_text(rho)}")
    say(comparability(config, final_stage(rows)))
    page = folder / "report.html"
    write_page([found], page)
    picture, what = folder / "front.png", "latency" if timed else "GFLOPs"
    title = f"{config.name}: {proposer.trials_done} trials, budget {share:.0%} of the dense {what}"
    plot_front(rows, share, title, picture)
    tracker.attach([folder / "sweep.yaml", picture, page])
    say(f"rows:   {folder / 'trials'}/*.parquet\nplot:   {picture}\nreport: {page}")
    say(f"runs:   {runs_command(uri)}")
    if found.front:
        say(f"next:   raycomp pick {folder.name} --max-drop 2{results_option(results)}")
    leaving.join()
    leave_memory_to_the_system()
    if not outcome.finished:
        console.print("interrupted: the same command goes on from here", style="yellow")
        sys.exit(INTERRUPTED)
    check_measured([row for row in rows if row.stage in ("search", "full")])


def _say_plan(config: configs.SweepConfig, store: Store, space: Path, as_json: bool) -> None:
    """What a sweep would run; nothing is written, and no cluster is asked."""
    shape, _ = shape_of(config, space)
    grid = _grid(config, shape)
    limit = config.search.budget * grid.cost(dense(shape))
    in_time = config.search.limit == "latency"  # what that takes is measured by the sweep itself
    if not in_time:
        grid.check_budget(limit)
    search = config.search
    if in_time:
        known = tuple(share for share in search.known if share <= search.budget)
        search = search.model_copy(update={"budget": 1.0, "known": known})
    from raycomp.models import checkpoints
    from raycomp.search.base import trained_space
    from raycomp.search.plan import plan
    from raycomp.search.proposer import Proposer

    named, console = config.model.checkpoint, tables.console(aside=as_json)
    if _is_there(named):
        checkpoints.load(checkpoints.locate(named), shape)
    else:
        console.print(
            f"{named} is not there yet; jobs/train.py --out {shlex.quote(named)} makes it",
            style="yellow",
            highlight=False,
        )
    elastic = config.model.elastic
    measurable = trained_space(config, shape) if elastic is not None and _is_there(elastic) else None
    rows = store.rows() if (store.folder / "sweep.yaml").is_file() else []
    planned = plan(config, Proposer(grid, search, rows, measurable))
    if as_json:
        allowed = {"limit": config.search.limit, "budget": config.search.budget, "gflops": None if in_time else limit}
        print_json({"sweep": config.name, "trials": config.search.trials, **allowed, **asdict(planned)})
        return
    console.print(tables.plan_table(config, planned, limit, store))
    if planned.warning:
        console.print(planned.warning, style="yellow", highlight=False, soft_wrap=True)


def _is_there(named: str) -> bool:
    return named.startswith("package:") or Path(named).is_file()


def _grid(config: configs.SweepConfig, shape: ModelShape) -> Space:
    return Space(shape, config.space, config.data.window_for(shape))


if __name__ == "__main__":
    guarded(main)
