# SPDX-License-Identifier: Apache-2.0
"""`raycomp refine`: fine-tune a finished front, or measure it elsewhere. torch is imported late."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from raycomp import config as configs
from raycomp.commands.inputs import AS_SPACE, Results, Tracking, complete_sweep, numbers, parts, runs_command, shape_of
from raycomp.errors import UserError
from raycomp.jobs.session import session, share_cores
from raycomp.report import tables
from raycomp.results.query import check_measured, final_front
from raycomp.results.row import Row
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import tracking_uri
from raycomp.search.proposal import Proposal
from raycomp.shape import ModelShape


def refine_command(
    sweep: Annotated[str, typer.Option(help="Name of a finished sweep.", autocompletion=complete_sweep)],
    steps: Annotated[int | None, typer.Option(help="Steps per recipe, instead of refine.train.steps.")] = None,
    lr: Annotated[float | None, typer.Option(help="Maximum learning rate, instead of refine.train.lr.")] = None,
    distill: Annotated[float | None, typer.Option(help="Weight of the distillation loss; 0 for none.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, for example 0,1,2.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Refine only this many recipes of the front.")] = None,
    recipes: Annotated[str, typer.Option(help="Refine only these recipes of the front: ids or prefixes.")] = "",
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
    if space or split:
        training = {"--steps": steps, "--lr": lr, "--distill": distill, "--seeds": seeds, "--workers": workers}
        for option, value in (training | {"--top": top, "--recipes": recipes or None}).items():
            if value is not None:
                advice = "not with --space and --split, which measure the front without training"
                raise UserError(f"{option} {value}: {advice}")
        _rerank(store, space, split, results, uri)
        return
    chosen_seeds = None if seeds is None else [int(seed) for seed in numbers("--seeds", seeds, 0, 2**31)]
    before = config.refine.train
    train = {"steps": steps, "lr": lr, "min_lr": min(before.min_lr, before.lr if lr is None else lr)}
    config = config.changed("refine", train=train, distill=distill, seeds=chosen_seeds, workers=workers)
    rows = _front_rows(store, config)
    store.lock.take()
    share_cores()
    with session(config, store, uri, tables.console()) as job:
        from raycomp.jobs.refining import refine_front

        refined = refine_front(job, rows, top, parts(recipes))
        job.say(f"runs:   {runs_command(uri)}")
    check_measured(refined)


def _front_rows(store: Store, config: configs.SweepConfig) -> list[Row]:
    """Return the rows of a sweep that has a front."""
    rows = store.rows()
    if not final_front(rows, config.search.budget):
        raise UserError(f"{store.folder}: no recipe within its budget was measured; finish the sweep first")
    return rows


def _rerank(store: Store, space: Path | None, split: str | None, results: str, uri: str) -> None:
    """Measure a sweep's front elsewhere, as a new sweep."""
    before = store.config()
    rows = _front_rows(store, before)
    share_cores()
    from raycomp.refine.rerank import proposals, settings

    config = settings(store.folder.name, before, None if space is None else configs.load(space), split)
    shape, window = shape_of(config, space or store.folder / "sweep.yaml")
    planned = proposals(rows, before.search.budget, shape, window)
    config = config.changed("search", trials=len(planned))
    target = Store(sweep_folder(results, config.name))
    target.check(config)
    _check_trained(config, shape, planned)
    with session(config, target, uri, tables.console()) as job:
        from raycomp.jobs.reranking import rerank
        from raycomp.report.sweep_view import SweepView

        measured = rerank(job, SweepView(store.folder.name, before, rows), planned)
        job.say(f"runs:   {runs_command(uri)}")
    check_measured(measured)


def _check_trained(config: configs.SweepConfig, shape: ModelShape, planned: Sequence[Proposal]) -> None:
    """Check that the elastic model was trained on the recipes; the first is the dense model."""
    from raycomp.context.preparation import trained_space

    if (trained := trained_space(config, shape)) is None:
        return
    for one in planned[1:]:
        if problem := trained.outside(one.recipe):
            raise UserError(f"recipe {one.recipe.id}: outside the space of the elastic model: {problem}")
