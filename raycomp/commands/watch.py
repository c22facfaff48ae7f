# SPDX-License-Identifier: Apache-2.0
"""`raycomp watch`: a page of a running sweep that follows it."""

import webbrowser
from typing import Annotated

import typer

from raycomp.commands.inputs import Results, SweepName
from raycomp.report import tables
from raycomp.results.store import Store, sweep_folder

_PORT_HELP = "Port on this machine's loopback address; 0 takes a free one."


def watch_command(
    sweep: SweepName,
    port: Annotated[int, typer.Option(help=_PORT_HELP, min=0, max=65535)] = 0,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    results: Results = "results",
) -> None:
    """Serve the page of a sweep to this machine's browser; it follows a running sweep until Ctrl-C."""
    store = Store(sweep_folder(results, sweep))
    store.config()
    from raycomp.report.page.live import LiveSweep, server

    live = LiveSweep(store)
    with server(live, port) as serving:
        address = f"http://localhost:{serving.server_address[1]}/"
        tables.say(live.snapshot().line)
        tables.say(f"watching {sweep} at {address}; Ctrl-C ends it")
        if show:
            webbrowser.open(address)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            tables.say("stopped watching; the sweep is unaffected")
