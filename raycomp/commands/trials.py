# SPDX-License-Identifier: Apache-2.0
"""`raycomp trials`: what a sweep ran, in order, and why trials failed."""

from collections.abc import Sequence
from typing import Annotated

import typer

from raycomp import objectives
from raycomp.commands.inputs import Json, Results, SweepName, print_json
from raycomp.errors import UserError, first_line, nearest
from raycomp.report import tables
from raycomp.report.figures import duration
from raycomp.report.fitted import Column, FittedTable
from raycomp.results.row import Row
from raycomp.results.store import Store, sweep_folder

_LOG_HELP = "Print the error and the traceback of a trial that failed, by a prefix of its recipe id."
_STYLES = {"failed": "red", "stopped": "yellow"}
_FACTS = ("number", "stage", "recipe_id", "origin", "label", "family", "gflops", "gflops_share", "predicted_ms")
_OUTCOME = ("clean_miou", "corrupted_miou", "status", "error", "traceback", "started", "seconds")


def trials_command(
    sweep: SweepName,
    failed: Annotated[bool, typer.Option("--failed", help="Only trials that failed.")] = False,
    log: Annotated[str | None, typer.Option(metavar="RECIPE", help=_LOG_HELP)] = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """List the trials of a sweep in the order of their proposals, and why some failed."""
    store = Store(sweep_folder(results, sweep))
    store.config()
    rows = store.rows()
    if failed or log is not None:
        rows = [row for row in rows if row.status == "failed"]
    if log is not None:
        rows = _of_recipe(rows, log)
    if as_json:
        print_json([{name: getattr(row, name) for name in (*_FACTS, *_OUTCOME)} for row in rows])
    elif log is not None:
        for row in rows:
            tables.say(f"{row.stage} of {row.recipe_id}: {row.error}")
            tables.say(row.traceback or "no traceback: its worker died, or an older version measured it")
    else:
        tables.console().print(_table(sweep, rows))
        for row in rows:
            if row.status == "failed":
                tables.say(f"{row.recipe_id} failed: {first_line(row.error)}", style="red")


def _of_recipe(rows: Sequence[Row], start: str) -> list[Row]:
    """Return the rows of the recipe whose id starts so; raise a UserError if none or several do."""
    found = {row.recipe_id for row in rows if row.recipe_id.startswith(start)}
    if len(found) != 1:
        reason = "several failed recipes match" if found else nearest(start, [row.recipe_id for row in rows])
        raise UserError(f"--log {start}: {reason if rows else 'no trial failed'}")
    return [row for row in rows if row.recipe_id in found]


def _table(sweep: str, rows: Sequence[Row]) -> FittedTable:
    numbers = Column("share"), Column("clean / corrupted"), Column("time", optional=True)
    texts = Column("stage", text=True), Column("recipe", text=True), Column("kind", text=True, under="recipe")
    table = FittedTable(f"Trials of {sweep}: mIoU in %", (Column("no."), *texts, *numbers, Column("status", text=True)))
    for row in rows:
        share = f"{row.cost_share:.1%}" if row.gflops_share is not None else ""
        accuracy = objectives.both(row) if row.status == "complete" else ""
        time = "" if row.seconds is None else duration(row.seconds)
        cells = str(row.number), row.stage, row.recipe_id, row.kind, share, accuracy, time, row.status
        table.add_row(*cells, style=_STYLES.get(row.status, ""))
    return table
