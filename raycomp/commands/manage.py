"""`raycomp status | track | compact`: see what runs, keep MLflow and the files of a sweep in order."""

from dataclasses import asdict
from typing import Annotated

import typer

from raycomp.commands.inputs import Json, Results, complete_sweep, print_json
from raycomp.errors import UserError, first_line, logger, without_password
from raycomp.report import tables
from raycomp.report.status import Status, status_of
from raycomp.results.query import class_names, final_front, front_volume, refined_front
from raycomp.results.store import Store, sweep_folder
from raycomp.storage import located


def status_command(
    sweep: Annotated[str | None, typer.Argument(help="One sweep; else all.", autocompletion=complete_sweep)] = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Which sweeps there are, which of them run, and how far they are."""
    names = [sweep] if sweep else sorted(path.parent.name for path in located(results).glob("*/sweep.yaml"))
    if not names:
        raise UserError(f"there is no sweep in {results}; raycomp search makes one")
    found = list[Status]()
    for name in names:
        try:
            found.append(status_of(Store(sweep_folder(results, name))))
        except UserError as error:  # one that cannot be read does not hide the others
            if sweep:
                raise
            tables.console(aside=True).print(f"left out: {error}", style="yellow", highlight=False, soft_wrap=True)
    found.sort(key=lambda s: s.recency, reverse=True)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    tables.console().print(tables.status_table(found))


def track_command(
    sweep: Annotated[str, typer.Argument(help="Name of the sweep.", autocompletion=complete_sweep)],
    backfill: Annotated[bool, typer.Option("--backfill", help="Log what is missing.")] = False,
    tracking: Annotated[str | None, typer.Option(help="MLflow tracking URI; by default SQLite in the results.")] = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Is every row of a sweep in MLflow? Where a server was down, --backfill completes it."""
    store = Store(sweep_folder(results, sweep))
    config, rows = store.config(), store.rows()
    from raycomp.results.tracking import Tracker, tracking_uri

    problems = list[str]()
    uri = tracking_uri(tracking, results)
    tracker = Tracker(uri, store.folder, config, class_names(rows) if rows else [], problems.append)
    shown = without_password(uri)
    try:
        missing = tracker.missing(rows)
    except Exception as error:  # whatever a server or database answers
        logger.debug("asking MLflow at %s", shown, exc_info=True)
        raise UserError(without_password(f"MLflow at {uri}: {first_line(error)}")) from None
    if backfill and missing:
        for row in rows:
            tracker.log(row)
        members = final_front(rows, config.search.budget)
        marked = [*members, *refined_front(rows)]
        if not tracker.finish(marked, status_of(store).state == "finished", front_volume(members, rows)):
            raise UserError(problems[-1])
        for line in problems:
            tables.console(aside=True).print(line, style="yellow", highlight=False, soft_wrap=True)
    if as_json:
        added = len(missing) if backfill else 0
        print_json({"tracking": shown, "rows": len(rows), "missing": len(missing) - added, "added": added})
        return
    said = f"has {len(rows) - len(missing)} of {len(rows)} rows"
    if missing:
        said = f"{len(missing)} of {len(rows)} rows added" if backfill else f"{said}; --backfill adds the rest"
    tables.console().print(f"MLflow at {shown}: {said}", highlight=False)


def compact_command(
    sweep: Annotated[str, typer.Argument(help="Name of the sweep.", autocompletion=complete_sweep)],
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Put the rows of a sweep's many small files into one; reading thousands takes long, above all from far away."""
    store = Store(sweep_folder(results, sweep))
    store.config()
    replaced = store.compact()
    there = len(store.rows())
    if as_json:
        print_json({"sweep": sweep, "files": replaced, "rows": there})
        return
    tables.console().print(f"{store.folder}: {replaced} files put into one, which holds {there} rows", highlight=False)
