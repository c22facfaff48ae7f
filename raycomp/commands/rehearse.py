# SPDX-License-Identifier: Apache-2.0
"""`raycomp rehearse`: run every job of a search space at its smallest size, and estimate the hours of the real ones."""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import yaml

from raycomp import config as configs
from raycomp.commands.inputs import AS_SPACE, DataFolder, Json, names, print_json
from raycomp.errors import UserError
from raycomp.rehearsal.estimate import Rates, Stage, stages
from raycomp.rehearsal.smallest import RECIPE, SPACE, SWEEP, Job, jobs, smallest
from raycomp.rehearsal.watched import Watched, watch
from raycomp.report import tables
from raycomp.report.figures import duration
from raycomp.report.fitted import Column, FittedTable
from raycomp.results.query import completed
from raycomp.results.store import Store

_SPLIT_HELP = "Use this split of the data for training and measuring; by default those of the file."
_RANDOM_HELP = "Start from random weights, not from a backbone."
_JOBS_HELP = "Jobs to run, with those they need: train, search, ...; by default all."
_OUT_HELP = "Folder to keep the files in; by default a temporary one."
_GIB = 2**30


def rehearse_command(
    space: Annotated[Path, typer.Argument(help="Search space: a file, or the name of a shipped one.", **AS_SPACE)],
    data: DataFolder = None,
    split: Annotated[str | None, typer.Option(help=_SPLIT_HELP)] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help=_RANDOM_HELP)] = False,
    gpus: Annotated[float | None, typer.Option(help="GPUs per trial, instead of the file's; 0 on a CPU.")] = None,
    only: Annotated[str | None, typer.Option("--jobs", help=_JOBS_HELP)] = None,
    out: Annotated[Path | None, typer.Option(help=_OUT_HELP)] = None,
    as_json: Json = False,
) -> None:
    """Run every job once at its smallest size, then print the memory and the hours that the real ones need."""
    config = configs.load(space).changed("data", root=data).changed("search", gpus_per_trial=gpus)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: expected a new or an empty folder")
    with nullcontext(str(out)) if out is not None else TemporaryDirectory(prefix="raycomp-rehearsal-") as kept:
        folder = Path(kept)
        folder.mkdir(parents=True, exist_ok=True)
        chosen = _chosen(jobs(config, folder), only)
        settings = smallest(config, folder, split, random_weights)
        (folder / SPACE).write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
        results = _run(chosen, folder, partial(tables.say, aside=as_json))
    path = stages(config, _rates(results))
    if as_json:
        print_json({"space": config.name, "jobs": _data(chosen, results), "stages": [asdict(stage) for stage in path]})
    else:
        console = tables.console()
        console.print(_jobs_table(config.name, chosen, results))
        console.print(_hours_table(path))
    if failed := [name for name, result in results.items() if result.code]:
        tables.say(f"failed: {', '.join(failed)}", aside=as_json, style="red")
        raise typer.Exit(1)


def _chosen(every: list[Job], only: str | None) -> list[Job]:
    """Return the jobs of an option, and those they need."""
    if only is None:
        return every
    by_name = {job.name: job for job in every}
    wanted = set(names("--jobs", only, list(by_name)))
    for job in reversed(every):  # a job comes after those it needs
        if job.name in wanted:
            wanted.update(job.after)
    return [job for job in every if job.name in wanted]


def _run(chosen: list[Job], folder: Path, say: Callable[..., None]) -> dict[str, Watched]:
    """Run jobs in turn, except those that need a failed one, and say how each ended."""
    results: dict[str, Watched] = {}
    environment = {**os.environ, "RAYCOMP_CACHE": str(folder / "cache")}
    for number, job in enumerate(chosen, 1):
        say(f"{number}/{len(chosen)} {job.name} ...")
        if failed := next((name for name in job.after if name not in results or results[name].code), None):
            say(f"  left out: it needs {failed}", style="yellow")
            continue
        result = watch(_command(job, folder), environment, folder / f"{job.name}.log")
        results[job.name] = result
        if result.code:
            say(f"  failed after {duration(result.seconds)}: {result.problem}", style="red")
        else:
            say(f"  {duration(result.seconds)}, {_memory(result)}")
    return results


def _command(job: Job, folder: Path) -> list[str]:
    """Return the command of a job, with the cheapest recipe of the sweep where one is needed."""
    if RECIPE not in job.arguments:
        return job.command
    cheapest = min(completed(Store(folder / SWEEP).rows(), "full"), key=lambda row: row.cost)
    return [cheapest.recipe_id if part == RECIPE else part for part in job.command]


def _rates(results: dict[str, Watched]) -> Rates:
    """Return the rates that the jobs were seen to have."""
    steps = {name: result.step_seconds for name, result in results.items()}
    plan: dict[str, Any] = json.loads(results["plan"].output) if "plan" in results and not results["plan"].code else {}
    window = plan["limit_ms"] / 1e3 if plan else None
    return Rates(
        train=steps.get("train"),
        elastic=steps.get("elastic"),
        policy=steps.get("policy"),
        refine=steps.get("refine"),
        window=window,
        windows=plan.get("windows"),
    )


def _memory(result: Watched) -> str:
    gpu = f", {result.gpu_memory / _GIB:.1f} GiB of a GPU" if result.gpu_memory else ""
    return f"{result.memory / _GIB:.1f} GiB{gpu}"


def _data(chosen: list[Job], results: dict[str, Watched]) -> list[dict[str, Any]]:
    """Return the jobs as plain data; times in seconds, memory in GiB, both None for a job left out."""
    every = []
    for job in chosen:
        result = results.get(job.name)
        every.append(
            {
                "job": job.name,
                "seconds": result and result.seconds,
                "step_seconds": result and result.step_seconds,
                "gib": result and result.memory / _GIB,
                "gpu_gib": result and result.gpu_memory / _GIB,
                "result": "left out" if result is None else result.problem or "done",
            }
        )
    return every


def _jobs_table(name: str, chosen: list[Job], results: dict[str, Watched]) -> FittedTable:
    columns = Column("job", text=True), Column("time"), Column("s per step"), Column("GiB"), Column("GiB of a GPU")
    table = FittedTable(f"Rehearsal of {name}", (*columns, Column("result", text=True)))
    for job in chosen:
        if (result := results.get(job.name)) is None:
            table.add_row(job.name, "", "", "", "", "left out", style="yellow")
            continue
        step = "" if result.step_seconds is None else f"{result.step_seconds:.3g}"
        gpu = f"{result.gpu_memory / _GIB:.1f}" if result.gpu_memory else ""
        memory, style = f"{result.memory / _GIB:.1f}", "red" if result.code else ""
        table.add_row(job.name, duration(result.seconds), step, memory, gpu, result.problem or "done", style=style)
    return table


def _hours_table(path: list[Stage]) -> FittedTable:
    columns = Column("stage", text=True), Column("work", text=True), Column("hours at most")
    table = FittedTable("The whole path on one device like this one", columns)
    for stage in path:
        table.add_row(stage.name, stage.amount, "unknown" if stage.hours is None else f"{stage.hours:,.1f}")
    return table
