# SPDX-License-Identifier: Apache-2.0
"""`raycomp benchmark`: compare the methods of the paper at matched GFLOPs. torch is imported late."""

from typing import Annotated

import typer

from raycomp import config as configs
from raycomp.commands.inputs import (
    DEFAULT_SPACE,
    Checkpoint,
    DataFolder,
    OutFolder,
    SpaceFile,
    Tracking,
    parts,
    runs_command,
)
from raycomp.errors import UserError
from raycomp.jobs.session import session, share_cores
from raycomp.report import tables
from raycomp.results.query import final_front
from raycomp.results.row import Row
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import tracking_uri
from raycomp.settings.section import Criterion
from raycomp.storage import located

_RECOVERY_HELP = "Fine-tuning steps of every model; 0 measures models as cut."
_NAME_HELP = "Name of the results; by default the space's with -benchmark."


def benchmark_command(
    space: SpaceFile = DEFAULT_SPACE,
    recovery: Annotated[int | None, typer.Option(help=_RECOVERY_HELP)] = None,
    lr: Annotated[float | None, typer.Option(help="Maximum learning rate of the fine-tuning.")] = None,
    train_between: Annotated[int | None, typer.Option(help="Training steps after each round of NViT.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of the fine-tuning, for example 0,1,2.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, for example tome,nvit,nvit+tome.")] = None,
    speedups: Annotated[str | None, typer.Option(help="Dense over compressed GFLOPs, for example 1.4,2.5.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Folder of a finished sweep whose front is compared, too.")] = None,
    name: Annotated[str | None, typer.Option(help=_NAME_HELP)] = None,
    results: OutFolder = "results",
    data: DataFolder = None,
    checkpoint: Checkpoint = None,
    policy: Annotated[str | None, typer.Option(help="Policy network of CTS, instead of the file's.")] = None,
    tracking: Tracking = None,
) -> None:
    """Compare the methods of the paper at matched GFLOPs: tables and figures."""
    config = configs.load(space)
    config = configured(config, recovery, lr, train_between, seeds=seeds, methods=methods, speedups=speedups)
    config = config.changed("data", root=data).changed("model", checkpoint=checkpoint)
    config = config.changed("policy", checkpoint=policy)
    folder = sweep_folder(results, name or f"{config.name}-benchmark")
    config = config.model_copy(update={"name": folder.name})
    store = Store(folder)
    store.check(config)
    share_cores()
    finished = (None, None) if sweep is None else _finished(sweep, config.model.checkpoint)
    with session(config, store, tracking_uri(tracking, results), tables.console()) as job:
        from raycomp.jobs.benchmarking import benchmark

        benchmark(job, *finished)
        job.say(f"runs:  {runs_command(job.uri)}")


def configured(
    config: configs.SweepConfig,
    recovery: int | None = None,
    lr: float | None = None,
    train_between: int | None = None,
    **lists: str | None,
) -> configs.SweepConfig:
    """Return the settings of a comparison: every method cuts the dense model, and options replace fields."""
    given = {name: parts(text) for name, text in lists.items() if text is not None}
    config = config.changed("recovery", mode="none", steps=0).changed("nvit", train_between={"steps": train_between})
    return config.changed("benchmark", **given, recovery={"steps": recovery, "lr": lr})


def _finished(sweep: str, checkpoint: str) -> tuple[list[Row], Criterion]:
    """Return the front of a sweep that used this checkpoint, and the criterion that it pruned by."""
    store = Store(located(sweep))
    settings = store.config().search
    front = final_front(store.rows(), settings.budget)
    if not front:
        raise UserError(f"--sweep {sweep}: no recipe within its budget was measured")
    from raycomp.models import checkpoints

    used, here = front[0].checkpoint.split()[0], checkpoints.fingerprint(checkpoints.locate(checkpoint))
    if used != here:
        raise UserError(f"--sweep {sweep}: it used checkpoint {used}, this space uses {here}")
    return front, settings.criterion
