# SPDX-License-Identifier: Apache-2.0
"""`raycomp stop | pause | resume`: steer a running search, which reads the request when a worker is free."""

from raycomp.commands.inputs import Json, Results, SweepName, print_json
from raycomp.errors import UserError
from raycomp.report import tables
from raycomp.results.steering import Request
from raycomp.results.store import Store, sweep_folder


def stop_command(sweep: SweepName, results: Results = "results", as_json: Json = False) -> None:
    """End a running search after the trials that run; the same command of `raycomp search` resumes it."""
    _ask(
        sweep, results, "stop", "ends after the trials that run; the same command of raycomp search resumes it", as_json
    )


def pause_command(sweep: SweepName, results: Results = "results", as_json: Json = False) -> None:
    """Let a running search start no more trials until `raycomp resume`."""
    _ask(sweep, results, "pause", f"starts no more trials; raycomp resume {sweep} lets it go on", as_json)


def resume_command(sweep: SweepName, results: Results = "results", as_json: Json = False) -> None:
    """Let a paused search go on."""
    _ask(sweep, results, "", "goes on", as_json)


def _ask(sweep: str, results: str, request: Request, effect: str, as_json: bool) -> None:
    store = Store(sweep_folder(results, sweep))
    store.config()
    name, before = request or "resume", store.steering.request()
    if not (holder := store.lock.holder()):
        advice = "the same command of raycomp search resumes it" if name == "resume" else f"there is nothing to {name}"
        raise UserError(f"{sweep}: no search is running; {advice}")
    if not store.steering.listening():
        raise UserError(f"{sweep}: {holder} runs no trials of a search now; Ctrl-C ends it")
    if before == "stop":
        raise UserError(f"{sweep}: the search is stopping already")
    if not request and before != "pause":
        raise UserError(f"{sweep}: not paused")
    store.ask(request)
    if as_json:
        print_json({"sweep": sweep, "asked": name, "process": holder})
    else:
        tables.say(f"{sweep}: {holder} {effect}")
