"""The command line. Thin: commands are functions of `raycomp.commands`, answers come from elsewhere."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import typer

from raycomp.commands import choose, deploy, inspect, manage
from raycomp.errors import UserError
from raycomp.search import cluster

if TYPE_CHECKING:  # slow to import
    from raycomp.results.tracking import Tracker

app = typer.Typer(help="Find prune-then-merge recipes for ViT segmentation models.", no_args_is_help=True)
app.command("profile")(inspect.profile_command)
app.command("front")(inspect.front_command)
app.command("pick")(choose.pick_command)
app.command("explain")(inspect.explain_command)
app.command("compare")(choose.compare_command)
app.command("report")(choose.report_command)
app.command("export")(deploy.export_command)
app.command("predict")(deploy.predict_command)
app.command("speed")(deploy.speed_command)
app.command("status")(manage.status_command)
app.command("track")(manage.track_command)
app.command("compact")(manage.compact_command)


INTERRUPTED = 130
"""Exit code of a job that Ctrl-C or `ray job stop` ended with a usable result."""


def interrupted(tracker: "Tracker", say: Callable[[str], None]) -> NoReturn:
    """End a job that Ctrl-C or `ray job stop` met: what is measured stays, and the same command goes on."""
    say("interrupted: the same command goes on from here")
    tracker.finish([], finished=False)
    cluster.disconnect()
    sys.exit(INTERRUPTED)


def run() -> None:
    """Entry point of the `raycomp` command."""
    guarded(app)


def guarded(command: Callable[..., None]) -> None:
    """Run a typer app or a plain function; a UserError becomes one line and exit code 2."""
    try:
        command() if isinstance(command, typer.Typer) else typer.run(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of a pipe, `head` for example, has seen enough
        sys.stderr.close()
        sys.exit(1)
