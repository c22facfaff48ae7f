# SPDX-License-Identifier: Apache-2.0
"""`raycomp search`: search the Pareto front of prune-then-merge recipes. torch is imported late."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from raycomp import config as configs
from raycomp.commands.inputs import (
    DEFAULT_SPACE,
    OutFolder,
    SpaceFile,
    Tracking,
    print_json,
    results_option,
    runs_command,
    shape_of,
)
from raycomp.errors import UserError
from raycomp.jobs.session import session, share_cores
from raycomp.report import tables
from raycomp.results.query import check_measured
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import tracking_uri
from raycomp.settings.amounts import Amount, stored
from raycomp.space import Space

_BUDGET_HELP = "Maximum cost: a share of dense such as 50%, or 0.2GFLOPs, or 8ms for cost metric latency."

_ENGINE_HELP = "What runs the timed models: torch, or onnxruntime."
_BATCH_HELP = "Images of a batch for times and memory: that of the deployed model."
_FRONT_HELP = "Search at all shares of search.baselines within the budget, or near it alone, the default with --budget."


def search_command(
    space: SpaceFile = DEFAULT_SPACE,
    budget: Annotated[str | None, typer.Option(help=_BUDGET_HELP)] = None,
    front: Annotated[bool | None, typer.Option("--front/--no-front", help=_FRONT_HELP)] = None,
    cost_metric: Annotated[str | None, typer.Option(help="Cost: gflops, or latency on this device.")] = None,
    engine: Annotated[str | None, typer.Option(help=_ENGINE_HELP)] = None,
    batch: Annotated[int | None, typer.Option(help=_BATCH_HELP)] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the timed models on a CPU.")] = None,
    trials: Annotated[int | None, typer.Option(help="Trials to spend.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep; by default the space's.")] = None,
    results: OutFolder = "results",
    seed: Annotated[int | None, typer.Option(help="Seed of the proposals.")] = None,
    workers: Annotated[int | None, typer.Option(help="Parallel trials.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs per trial; 0.25 packs four trials on one.")] = None,
    tracking: Tracking = None,
    study: Annotated[str | None, typer.Option(help="Optuna's storage, for example postgresql://HOST/NAME.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run and how long it takes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")] = False,
) -> None:
    """Search the Pareto front of prune-then-merge recipes within a budget, print it, and draw it."""
    if as_json and not dry_run:
        raise UserError("--json needs --dry-run; raycomp front NAME --json prints the results of a sweep")
    front = False if front is None and budget else front
    given = {"budget": budget, "front": front, "cost_metric": cost_metric, "trials": trials, "seed": seed}
    timing = {"latency_engine": engine, "latency_batch": batch, "latency_threads": threads}
    config = configs.load(space, **given, **timing, workers=workers).changed("search", gpus_per_trial=gpus)
    if (engine or threads) and not config.search.needs_times:
        option = f"--engine {engine}" if engine else f"--threads {threads}"
        raise UserError(f"{option}: only a search for time uses it; add --cost-metric latency, or --budget 8ms")
    folder = sweep_folder(results, name or config.name)
    config, store = config.model_copy(update={"name": folder.name}), Store(folder)  # the name identifies rows and runs
    share_cores()
    if dry_run:
        _print_plan(config, store, space, as_json)
        return
    store.check(config)
    _check(config)
    _search(config, store, tracking_uri(tracking, results), study, results)


def _search(config: configs.SweepConfig, store: Store, uri: str, study: str | None, results: str) -> None:
    """Run the sweep, and print its front and what to do next."""
    with session(config, store, uri, tables.console()) as job:
        from raycomp.jobs.searching import search

        view, finished = search(job, study)
        job.say(f"runs:   {runs_command(job.uri)}")
        if view.front:
            job.say(f"next:   raycomp pick {config.name} --max-drop 2{results_option(results)}")
        if not finished:
            raise KeyboardInterrupt
    check_measured([row for row in view.rows if row.stage in ("search", "full")])


def _check(config: configs.SweepConfig) -> None:
    """Check, before loading anything, that the budget can be met and that the checkpoints exist."""
    if (shape := config.model.shape) is not None and config.search.cost_metric != "latency":
        grid = Space.of(config, shape)
        grid.check_budget(grid.budget_of(config.search.budget))
    if config.search.needs_times and config.search.latency_engine == "onnxruntime":
        import raycomp.deploy.onnx  # noqa: F401  an extra, which may be missing
    from raycomp.models import checkpoints

    checkpoints.locate(config.model.checkpoint)
    if config.model.elastic is not None:
        checkpoints.locate(config.model.elastic, "model.elastic")


def _print_plan(config: configs.SweepConfig, store: Store, space: Path, as_json: bool) -> None:
    """Print what a sweep would run, without writing anything or asking a cluster."""
    shape, _ = shape_of(config, space)
    grid, search = Space.of(config, shape), config.search
    in_time = search.cost_metric == "latency"  # only the sweep measures the times
    if in_time:
        most = 1.0 if isinstance(search.budget, Amount) else search.budget
        shares = tuple(share for share in search.baselines if share <= most)
        search = search.model_copy(update={"budget": 1.0, "baselines": shares})
    limit = grid.budget_of(search.budget)
    grid.check_budget(limit)
    from raycomp.context.preparation import trained_space
    from raycomp.models import checkpoints
    from raycomp.search.plan import plan
    from raycomp.search.proposer import Proposer
    from raycomp.search.schedule import probe_trials

    checkpoint, elastic = config.model.checkpoint, config.model.elastic
    if _exists(checkpoint):
        checkpoints.load(checkpoints.locate(checkpoint), shape)
    else:
        advice = f"raycomp train --out {shlex.quote(checkpoint)} makes it"
        tables.say(f"{checkpoint} does not exist yet; {advice}", aside=as_json, style="yellow")
    measurable = trained_space(config, shape) if elastic is not None and _exists(elastic) else None
    rows = store.rows() if (store.folder / "sweep.yaml").is_file() else []
    planned = plan(config, Proposer(grid, search, rows, measurable, probe_trials(config)))
    if as_json:
        budget = {"cost_metric": config.search.cost_metric, "budget": stored(config.search.budget)}
        gflops = None if in_time else limit
        print_json({"sweep": config.name, "trials": search.trials, **budget, "gflops": gflops, **asdict(planned)})
        return
    tables.console().print(tables.plan_table(config, planned, limit, store))
    if planned.warning:
        tables.say(planned.warning, style="yellow")


def _exists(checkpoint: str) -> bool:
    return checkpoint.startswith("package:") or Path(checkpoint).is_file()
