"""Compare the methods of the paper at matched GFLOPs: its tables and figures, from one command.

    python jobs/benchmark.py --space search_spaces/streetscenes_vit_micro.yaml
    python jobs/benchmark.py --space search_spaces/streetscenes_vit_micro.yaml --recovery 300 --seeds 0,1,2

An interrupted comparison goes on with the same command; more seeds, methods or speed-ups are added to it.
"""

import os
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: workers share the cores

import typer

from raycomp import config as configs
from raycomp import objectives
from raycomp.cli import guarded, interrupted
from raycomp.commands.inputs import parts, runs_command
from raycomp.errors import UserError
from raycomp.memory import leave_memory_to_the_system
from raycomp.report import tables
from raycomp.results.query import check_measured, final_front
from raycomp.results.row import Row
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import Tracker, tracking_uri
from raycomp.search import cluster, placement
from raycomp.storage import located

_DEFAULT_SPACE = Path(__file__).resolve().parents[1] / "search_spaces" / "streetscenes_vit_micro.yaml"


def main(
    space: Annotated[Path, typer.Option(help="Search space file.")] = _DEFAULT_SPACE,
    recovery: Annotated[int | None, typer.Option(help="Fine-tuning steps of every model; 0 measures as cut.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate of the fine-tuning.")] = None,
    train_between: Annotated[int | None, typer.Option(help="Training steps after each round of NViT.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of the fine-tuning, for example 0,1,2.")] = None,
    methods: Annotated[str | None, typer.Option(help="Of algm, cts, tome, nvit, nvit+tome.")] = None,
    speedups: Annotated[str | None, typer.Option(help="Dense GFLOPs over the recipe's, for example 1.4,2.5.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Folder of a finished sweep, to compare its front.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the results; by default the space's, and -benchmark.")
    ] = None,
    results: Annotated[str, typer.Option(help="Folder for results, or a URI: s3://bucket/results.")] = "results",
    data: Annotated[Path | None, typer.Option(help="Folder of the data set, in place of the file's.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Dense checkpoint, in place of the file's.")] = None,
    policy: Annotated[str | None, typer.Option(help="Policy network of CTS, in place of the file's.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow tracking URI; by default SQLite in the results.")] = None,
) -> None:
    """Find every method's setting, measure all of them alike, and write tables and figures."""
    config = _configured(space, recovery, lr, train_between, _list(seeds), _list(methods), _list(speedups))
    config = config.changed("data", root=data).changed("model", checkpoint=checkpoint)
    config = config.changed("policy", checkpoint=policy)
    console = tables.console()
    folder = sweep_folder(results, name or f"{config.name}-benchmark")
    config = config.model_copy(update={"name": folder.name})
    store = Store(folder)
    store.check(config)
    front = scores = None
    if sweep is not None:
        finished = Store(located(sweep))
        front = final_front(finished.rows(), finished.config().search.budget)
        if not front:
            raise UserError(f"--sweep {sweep}: it has no measured recipe within its budget")
    cluster.connect()
    # Bad input is told before these are imported: torch alone takes seconds.
    import ray

    from raycomp.benchmark.run import Shared, find_settings, measure_cells, measure_speed
    from raycomp.report.benchmark_page import write_page
    from raycomp.search.base import cached_scores, check_same, prepare_base
    from raycomp.search.scoring import scored_by_worker
    from raycomp.train import preloaded

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    placement.announce(config, say, say)
    with_policy = "cts" in config.benchmark.methods
    base = prepare_base(config, say, with_policy, config.nvit.criterion, scored_by_worker)
    if front and (searched := front[0].checkpoint.split()[0]) != base.checkpoint:
        raise UserError(f"--sweep {sweep}: it searched checkpoint {searched}, here it is {base.checkpoint}")
    check_same(store.rows(), base, folder)
    store.open(config)
    samples = preloaded(config, max(config.benchmark.recovery.steps, config.nvit.training_steps), say)
    drawn = None if samples is None else ray.put(samples)
    shared = Shared(ray.put(base), drawn, folder.resolve(), config)
    uri = tracking_uri(tracking, results)
    tracker = Tracker(uri, folder, config, base.evalset.classes, lambda line: console.print(line, style="yellow"))
    cluster.stop_like_ctrl_c(tracker.killed)
    measured: list[Row] = []

    def on_row(row: Row, total: int) -> None:
        measured.append(row)
        tracker.log(row)
        say(f"cell {len(measured)}/{total}: {_line(row)}")

    try:
        if sweep is not None:
            of = f"{base.checkpoint}-{base.evalset.fingerprint}"
            scores = cached_scores(base.model, config, finished.config().search.criterion, of, say, scored_by_worker)
        settings = find_settings(shared, front, scores, base, say)
        measure_cells(shared, settings, store, base, on_row)
        try:
            timings = measure_speed(shared, settings)
        except ray.exceptions.RayError as error:  # out of memory with all models at once, for example
            say(f"no speeds: {str(error).splitlines()[-1]}")
            timings = []
    except KeyboardInterrupt:
        interrupted(tracker, say)
    cluster.disconnect()
    try:
        check_measured(measured)
    except UserError:
        tracker.finish(None, finished=False)
        raise
    written = write_page(folder, base, settings, measured, timings)
    tracker.finish(None, finished=True)
    tracker.attach([folder / "sweep.yaml", *written])
    say(f"page:  {written[0]}\nrows:  {folder / 'trials'}/*.parquet")
    say(f"runs:  {runs_command(uri)}")
    leave_memory_to_the_system()


def _configured(
    space: Path,
    recovery: int | None,
    lr: float | None,
    train_between: int | None,
    seeds: list[str] | None,
    methods: list[str] | None,
    speedups: list[str] | None,
) -> configs.SweepConfig:
    config = configs.load(space).changed("recovery", mode="none", steps=0)  # every method cuts the dense model
    given = {"seeds": seeds, "methods": methods, "speedups": speedups}
    steps = {"steps": recovery, "lr": lr}
    wanted: dict[str, Any] = config.benchmark.recovery.model_dump() | {k: v for k, v in steps.items() if v is not None}
    return config.training_between(train_between).changed("benchmark", **given, recovery=wanted)


def _list(text: str | None) -> list[str] | None:
    return None if text is None else parts(text)


def _line(row: Row) -> str:
    if row.status != "complete":
        return f"{row.label} failed: {row.error}"
    times = f"{row.seconds:.0f} s"
    return f"{row.label}, seed {row.seed}: {row.gflops:.4g} GFLOPs, {objectives.both(row)}, {times}"


if __name__ == "__main__":
    guarded(main)
