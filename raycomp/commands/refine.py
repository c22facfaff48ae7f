"""`raycomp refine`: fine-tune a finished front, or measure it elsewhere. Thin; torch is imported late."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from raycomp import config as configs
from raycomp.commands.inputs import (
    AS_SPACE,
    Results,
    Tracking,
    complete_sweep,
    numbers,
    parts,
    runs_command,
    shape_of,
)
from raycomp.errors import UserError
from raycomp.jobs.session import session, share_cores
from raycomp.report import tables
from raycomp.results.query import check_measured, final_front
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import tracking_uri
from raycomp.search.proposal import Proposal
from raycomp.shape import ModelShape


def refine_command(
    sweep: Annotated[str, typer.Option(help="Name of a finished sweep.", autocompletion=complete_sweep)],
    steps: Annotated[int | None, typer.Option(help="Steps of each recipe, in place of refine.train.steps.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate, in place of refine.train.lr.")] = None,
    distill: Annotated[float | None, typer.Option(help="Weight of the dense model's answers; 0 for none.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, for example 0,1,2.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Refine only so many of the front.")] = None,
    recipes: Annotated[str, typer.Option(help="Refine only these of the front: ids, or prefixes of them.")] = "",
    workers: Annotated[int | None, typer.Option(help="Processes that train a recipe together.")] = None,
    space: Annotated[
        Path | None, typer.Option(help="Re-rank the front with another space's model and data.", **AS_SPACE)
    ] = None,
    split: Annotated[str | None, typer.Option(help="Re-rank the front on another split of the data, as cut.")] = None,
    results: Results = "results",
    tracking: Tracking = None,
) -> None:
    """Fine-tune the front of a sweep with the dense model as teacher, or measure it elsewhere."""
    store, uri = Store(sweep_folder(results, sweep)), tracking_uri(tracking, results)
    config = store.config()
    training = {"--steps": steps, "--lr": lr, "--distill": distill, "--seeds": seeds, "--workers": workers}
    training |= {"--top": top, "--recipes": recipes or None}
    if space or split:
        _rerank(store, config, space, split, results, uri, training)
        return
    config = _configured(config, steps, lr, distill, seeds, workers)
    _check_front(store, config)
    store.lock.take()
    share_cores()
    with session(config, store, uri, tables.console()) as job:
        from raycomp.jobs.refining import refine_front

        refined = refine_front(job, top, parts(recipes))
        job.say(f"runs:   {runs_command(uri)}")
    check_measured(refined)


def _configured(
    config: configs.SweepConfig,
    steps: int | None,
    lr: float | None,
    distill: float | None,
    seeds: str | None,
    workers: int | None,
) -> configs.SweepConfig:
    """The sweep's settings with those of the refinement that were given."""
    train = config.refine.train.model_dump() | {k: v for k, v in (("steps", steps), ("lr", lr)) if v is not None}
    train["min_lr"] = min(train["min_lr"], train["lr"])
    wanted_seeds = None if seeds is None else [int(seed) for seed in numbers("--seeds", seeds, 0, 2**31)]
    return config.changed("refine", train=train, distill=distill, seeds=wanted_seeds, workers=workers)


def _check_front(store: Store, config: configs.SweepConfig) -> None:
    if not final_front(store.rows(), config.search.budget):
        raise UserError(f"{store.folder}: the sweep has no measured recipe within its budget; finish it first")


def _rerank(
    store: Store,
    before: configs.SweepConfig,
    space: Path | None,
    split: str | None,
    results: str,
    uri: str,
    training: dict[str, Any],
) -> None:
    """Measure a sweep's front elsewhere, as a sweep of its own."""
    for option, value in training.items():
        if value is not None:
            raise UserError(f"{option} {value}: --space and --split measure the front as it is, without training")
    _check_front(store, before)
    share_cores()
    from raycomp.refine.rerank import proposals, settings

    rows = store.rows()
    config = settings(store.folder.name, before, None if space is None else configs.load(space), split)
    shape, window = shape_of(config, space or store.folder / "sweep.yaml")
    wanted = proposals(rows, before.search.budget, shape, window)
    config = config.changed("search", trials=len(wanted))
    there = Store(sweep_folder(results, config.name))
    there.check(config)
    _check_trained(config, shape, wanted)
    with session(config, there, uri, tables.console()) as job:
        from raycomp.jobs.reranking import rerank
        from raycomp.report.sweep_view import SweepView

        measured = rerank(job, SweepView(store.folder.name, before, rows), wanted)
        job.say(f"runs:   {runs_command(uri)}")
    check_measured(measured)


def _check_trained(config: configs.SweepConfig, shape: ModelShape, wanted: Sequence[Proposal]) -> None:
    """Check that an elastic model was trained over the recipes; the first is the dense model's own."""
    from raycomp.context.preparation import trained_space

    if (trained := trained_space(config, shape)) is None:
        return
    for one in wanted[1:]:
        if problem := trained.outside(one.recipe):
            raise UserError(f"recipe {one.recipe.id}: outside of what the elastic model was trained over: {problem}")
