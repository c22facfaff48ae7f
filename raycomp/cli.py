"""The command line. Thin: commands are functions of `raycomp.commands`, answers come from elsewhere."""

import codecs
import sys
from collections.abc import Callable
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer
from pydantic import ValidationError

from raycomp.commands import autoscale_demo, benchmark, choose, export, manage, prune, refine, search, show, train
from raycomp.errors import UserError, logger, one_line, show_log
from raycomp.jobs.session import INTERRUPTED

app = typer.Typer(
    help="Find prune-then-merge recipes for ViT segmentation models.",
    epilog="As a job on a Ray cluster: ray job submit -- raycomp search",
    no_args_is_help=True,
)
_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "From a model to a front": {
        "profile": show.profile_command,
        "train": train.train_command,
        "search": search.search_command,
        "status": manage.status_command,
        "refine": refine.refine_command,
    },
    "What a sweep found": {
        "front": show.front_command,
        "pick": choose.pick_command,
        "explain": show.explain_command,
        "report": choose.report_command,
        "compare": choose.compare_command,
    },
    "Other methods": {"prune": prune.prune_command, "benchmark": benchmark.benchmark_command},
    "From a recipe to a model": {
        "export": export.export_command,
        "predict": export.predict_command,
        "speed": export.speed_command,
    },
    "Keeping results in order": {"track": manage.track_command, "compact": manage.compact_command},
}
for _panel, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_command)
app.command("autoscale-demo", hidden=True)(autoscale_demo.autoscale_demo_command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"raycomp {version('raycomp')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options of the program itself; each command has its own."""


_PLAINLY = "raycomp.plainly"
"""Name of the error handler of what is printed where the terminal or the pipe takes ASCII only, say."""
_PLAIN = {"±": "+-", "█": "#", "…": "..."}


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Stand-ins for a character that cannot be printed; a byte of a file name that is no text stays that byte."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, end = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), end
    return _PLAIN.get(character, "?"), end


codecs.register_error(_PLAINLY, _plainly)


def run() -> None:
    """Entry point of the `raycomp` command."""
    guarded(app)


def _one_line(error: typer.TyperException) -> str:
    """What typer found wrong with a command line: option, reason, value, and where to read on."""
    said, context = error.format_message(), getattr(error, "ctx", None)
    if isinstance(error.__cause__, ValidationError):
        said += f", not {error.__cause__.errors()[0]['input']!r}"
    return f"{said} (see {context.command_path} --help)" if said and context else said


def guarded(command: Callable[..., None]) -> None:
    """Run a typer app or a plain function; bad input becomes one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_PLAINLY)
    program = command if isinstance(command, typer.Typer) else typer.Typer(add_completion=False)
    if program is not command:
        program.command()(command)
    try:
        show_log()
        code = program(standalone_mode=False)  # or typer would frame its own errors, without the value
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as error:
        logger.debug("ended by", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.TyperException as error:
        if said := _one_line(error):  # of a command without arguments the help was shown
            print(f"error: {one_line(said)}", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:  # Ctrl-C outside of what a job guards
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe, `head` for example, has seen enough
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # a path that is too long, or may not be read, wherever that shows first
        if error.filename is None:
            raise
        print(f"error: {one_line(f'{error.filename}: {error.strerror}')}", file=sys.stderr)
        sys.exit(2)
