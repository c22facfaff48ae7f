# SPDX-License-Identifier: Apache-2.0
"""The command line; `raycomp.commands` has the commands."""

import codecs
import sys
from collections.abc import Callable
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer
from pydantic import ValidationError

from raycomp.commands import (
    autoscale_demo,
    benchmark,
    choose,
    doctor,
    export,
    import_model,
    manage,
    prune,
    refine,
    rehearse,
    search,
    show,
    solve,
    steer,
    train,
    trials,
    watch,
)
from raycomp.errors import UserError, logger, one_line, show_log
from raycomp.jobs.session import INTERRUPTED

app = typer.Typer(
    help="Find prune-then-merge recipes for ViT segmentation models.",
    epilog="As a job on a Ray cluster: ray job submit -- raycomp search",
    no_args_is_help=True,
)
_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "From a model to a front": (
        import_model.import_command, show.profile_command, rehearse.rehearse_command, train.train_command,
        search.search_command, refine.refine_command,
    ),
    "A running search": (
        manage.status_command, watch.watch_command, trials.trials_command, steer.stop_command, steer.pause_command,
        steer.resume_command,
    ),
    "Results of a sweep": (
        show.front_command, choose.pick_command, solve.solve_command, show.explain_command, choose.report_command,
        choose.compare_command,
    ),
    "Other methods": (prune.prune_command, benchmark.benchmark_command),
    "From a recipe to a model": (export.export_command, export.predict_command, export.speed_command),
    "Maintaining results": (manage.track_command, manage.compact_command, manage.delete_command),
    "This machine": (doctor.doctor_command, doctor.clean_command),
}  # fmt: skip
"""Commands by panel of the help; a function is named after its command."""
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        app.command(_command.__name__.removesuffix("_command"), rich_help_panel=_panel)(_command)
app.command("autoscale-demo", hidden=True)(autoscale_demo.autoscale_demo_command)


def _version(requested: bool) -> None:
    if requested:
        print(f"raycomp {version('raycomp')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options of the program; each command has further ones."""


_REPLACE = "raycomp.replace"
"""Error handler for output whose encoding lacks a character, such as an ASCII terminal."""
_REPLACEMENTS = {"±": "+-", "█": "#", "…": "..."}


def _replacement(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace a character that cannot be printed; keep a byte of a file name that is not UTF-8."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, end = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), end
    return _REPLACEMENTS.get(character, "?"), end


codecs.register_error(_REPLACE, _replacement)


def run() -> None:
    """Run the `raycomp` command."""
    guarded(app)


def _one_line(error: typer.TyperException) -> str:
    """Describe an invalid command line by option, reason, value, and the help to read."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if isinstance(error.__cause__, ValidationError):
        message += f", not {error.__cause__.errors()[0]['input']!r}"
    return f"{message} (see {context.command_path} --help)" if message and context else message


def guarded(command: Callable[..., None]) -> None:
    """Run a typer app or a plain function; invalid input becomes one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_REPLACE)
    program = command if isinstance(command, typer.Typer) else typer.Typer(add_completion=False)
    if program is not command:
        program.command()(command)
    try:
        show_log()
        code = program(standalone_mode=False)  # else typer would print its errors in a frame, without the value
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as error:
        logger.debug("user error", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.TyperException as error:
        if message := _one_line(error):  # empty for a command without arguments, which prints its help
            print(f"error: {one_line(message)}", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:  # Ctrl-C outside a session
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has closed it
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # a path that is too long or not readable, wherever that shows first
        if error.filename is None:
            raise
        print(f"error: {one_line(f'{error.filename}: {error.strerror}')}", file=sys.stderr)
        sys.exit(2)
