# SPDX-License-Identifier: Apache-2.0
"""`raycomp doctor | clean`: check this machine's installation, and empty its caches."""

import typer

from raycomp.commands.inputs import Json, Results, Tracking, Yes, confirmed, print_json
from raycomp.report import tables
from raycomp.report.fitted import Column, FittedTable

_STYLES = {"ok": "", "note": "yellow", "problem": "red"}


def doctor_command(results: Results = "results", tracking: Tracking = None, as_json: Json = False) -> None:
    """Check versions, devices, memory, disk, Ray, MLflow and the model hub of this machine; exit 1 on a problem."""
    from raycomp.report.machine import findings

    found = findings(results, tracking)
    if as_json:
        print_json(found)
    else:
        columns = [Column(name, text=True) for name in ("what", "found", "advice")]
        table = FittedTable("This machine", columns)
        for one in found:
            table.add_row(one.what, one.found, one.advice, style=_STYLES[one.state])
        tables.console().print(table)
    if any(one.state == "problem" for one in found):
        raise typer.Exit(1)


def clean_command(yes: Yes = False, as_json: Json = False) -> None:
    """Show the caches of this machine with their sizes, and empty them; sweeps make them again as needed."""
    from raycomp.data.evalset import cache_folder
    from raycomp.report.machine import caches, empty

    folder = cache_folder()
    found = caches(folder)
    if not as_json:
        table = FittedTable(f"Caches in {folder}", (Column("cache", text=True), Column("MB")))
        for name, size in found:
            table.add_row(name, f"{size / 1e6:,.1f}")
        tables.console().print(table)
    if sure := bool(found) and (yes or not as_json) and confirmed("Empty them?", yes):
        empty(folder)
    if as_json:
        print_json({"folder": str(folder), "bytes": dict(found), "emptied": sure})
