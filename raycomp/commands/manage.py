# SPDX-License-Identifier: Apache-2.0
"""`raycomp status | track | compact | delete`: show sweeps, and maintain their MLflow runs and files."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from raycomp.commands.inputs import Json, Results, SweepName, Tracking, Yes, complete_sweep, confirmed, print_json
from raycomp.errors import UserError, first_line, logger, without_password
from raycomp.report import tables
from raycomp.report.status import Status, status_of
from raycomp.results.query import class_names, final_front, front_volume, refined_front
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import Tracker, tracking_uri
from raycomp.storage import located


def status_command(
    sweep: Annotated[str | None, typer.Argument(help="A sweep; by default all.", autocompletion=complete_sweep)] = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """List the sweeps with their state and progress."""
    names = [sweep] if sweep else sorted(path.parent.name for path in located(results).glob("*/sweep.yaml"))
    if not names:
        raise UserError(f"there is no sweep in {results}; raycomp search makes one")
    statuses = list[Status]()
    for name in names:
        try:
            statuses.append(status_of(Store(sweep_folder(results, name))))
        except UserError as error:  # an unreadable sweep does not hide the others
            if sweep:
                raise
            tables.say(f"skipped: {error}", aside=True, style="yellow")
    statuses.sort(key=lambda s: s.last.timestamp() if s.last else 0.0, reverse=True)
    if as_json:
        print_json(statuses)
    else:
        tables.console().print(tables.status_table(statuses))


def track_command(
    sweep: SweepName,
    backfill: Annotated[bool, typer.Option("--backfill", help="Add missing rows.")] = False,
    tracking: Tracking = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Check that MLflow has every row of a sweep; --backfill adds rows missed while a server was down."""
    store = Store(sweep_folder(results, sweep))
    config, rows = store.config(), store.rows()
    problems = list[str]()
    uri = tracking_uri(tracking, results)
    tracker = Tracker(uri, store.folder, config, class_names(rows) if rows else [], problems.append)
    shown = without_password(uri)
    with _asking(f"MLflow at {uri}"):
        missing = tracker.missing(rows)
    if backfill and missing:
        for row in rows:
            tracker.log(row)
        members, finished = final_front(rows, config.search.budget), status_of(store).state == "finished"
        if not tracker.finish([*members, *refined_front(rows)], finished, front_volume(members, rows)):
            raise UserError(problems[-1])
        for line in problems:
            tables.say(line, aside=True, style="yellow")
    if as_json:
        added = len(missing) if backfill else 0
        print_json({"tracking": shown, "rows": len(rows), "missing": len(missing) - added, "added": added})
        return
    message = f"has {len(rows) - len(missing)} of {len(rows)} rows"
    if missing:
        message = f"{len(missing)} of {len(rows)} rows added" if backfill else f"{message}; --backfill adds the rest"
    tables.say(f"MLflow at {shown}: {message}")


def delete_command(
    sweep: SweepName,
    yes: Yes = False,
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Leave its runs in MLflow.")] = False,
    tracking: Tracking = None,
    study: Annotated[str | None, typer.Option(help="Optuna's storage, if it is not in the sweep's folder.")] = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Delete a sweep: its folder with rows, models, page and study, and its runs in MLflow, after a question."""
    store = Store(sweep_folder(results, sweep))
    config, count = store.config(), len(store.files())
    if as_json and not yes:
        raise UserError("--json cannot ask; confirm with --yes")
    runs_too = "" if keep_runs else " and its runs in MLflow"
    if not confirmed(f"Delete {store.folder}, {count} files of rows{runs_too}?", yes):
        raise typer.Exit(1)
    from raycomp.search.study_replica import delete_study

    uri, runs = tracking_uri(tracking, results), 0
    store.lock.take()  # before its runs, lest a running job logs more
    try:
        if study is not None:
            with _asking(f"--study {study}", "; the sweep is kept; without --study the rest is deleted"):
                delete_study(study, config.name)
        if not keep_runs:
            with _asking(f"MLflow at {uri}", "; the sweep is kept; --keep-runs deletes the rest"):
                runs = Tracker(uri, store.folder, config, [], lambda line: tables.say(line, aside=True)).delete()
        store.delete()
    finally:
        store.lock.drop()
    if as_json:
        print_json({"sweep": sweep, "files": count, "runs": runs})
    else:
        tables.say(f"{store.folder}: deleted, with {count} files of rows and {runs} runs in MLflow")


@contextmanager
def _asking(whom: str, advice: str = "") -> Iterator[None]:
    """Turn an error of a server or a database, which raise many types, into a UserError."""
    try:
        yield
    except Exception as error:
        logger.debug("asking %s", without_password(whom), exc_info=True)
        raise UserError(without_password(f"{whom}: {first_line(error)}") + advice) from None


def compact_command(sweep: SweepName, results: Results = "results", as_json: Json = False) -> None:
    """Merge the many small files of a sweep into one, which is faster to read, above all from object storage."""
    store = Store(sweep_folder(results, sweep))
    store.config()
    replaced = store.compact()
    count = len(store.rows())
    if as_json:
        print_json({"sweep": sweep, "files": replaced, "rows": count})
    else:
        tables.say(f"{store.folder}: {replaced} files merged into one with {count} rows")
