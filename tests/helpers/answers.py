# SPDX-License-Identifier: Apache-2.0
"""What all of these tests check: a result or one line of an error comes out in time, and no other file changes."""

import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from raycomp.cli import app, guarded
from raycomp.errors import UserError
from raycomp.jobs.session import INTERRUPTED

_T = TypeVar("_T")
SECONDS = 20.0
"""Limit of an example; most take milliseconds, but this may be a busy machine."""
OUTPUTS = ("out", "cache")
"""Folders of an example that may change."""


@dataclass(frozen=True)
class Given:
    """Right files: `export.safetensors`, `policy.safetensors`, `x.png`, `recipe.json`, and a sweep, `results/tiny`."""

    folder: Path
    recipe: str
    """Id of a recipe of the sweep."""


class TooLong(BaseException):
    """An example that does not end; nothing that expects an Exception may take it for one."""


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TooLong:
        raise AssertionError(f"no answer within {seconds:g} seconds") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def place() -> Iterator[Path]:
    """A folder of an example's own: its working directory, home, and where its temporary files lie."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    own = {"RAYCOMP_CACHE": str(folder / "cache"), "HOME": str(folder), "TMPDIR": str(folder)}
    try:
        with patch.dict(os.environ, own), chdir(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def untouched(folder: Path, outputs: Sequence[str] = OUTPUTS) -> Iterator[None]:
    """Check that a block changes, adds and removes no file but in the outputs."""
    before = _files(folder, outputs)
    yield
    after = _files(folder, outputs)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert not changed, f"files changed: {sorted(changed)}"


def _files(folder: Path, outputs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in folder.rglob("*"):
        name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
        if name.split("/")[0] in outputs:
            continue
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def answer(action: Callable[[], _T], seconds: float = SECONDS) -> _T | None:
    """The result of an action, or None where it says in one line what is wrong."""
    try:
        with limited(seconds):
            return action()
    except OSError as error:  # `raycomp.cli.guarded` makes a line of it
        if error.filename is None:
            raise
        return None
    except UserError as error:
        said = str(error)
        assert said.strip(), "an error without a word"
        assert len(said.splitlines()) == 1, f"an error of several lines: {said!r}"
        return None


def command(
    arguments: Sequence[str],
    environment: Mapping[str, str | None] | None = None,
    encoding: str = "utf-8",
    program: Callable[..., None] = app,
) -> tuple[int, str]:
    """Run a command line; check its exit code and what it says, and return both.

    `environment`: variables to set, or with None to unset.
    """
    out, err = (TextIOWrapper(BytesIO(), encoding, write_through=True) for _ in range(2))
    given = environment or {}
    with patch.dict(os.environ, {k: v for k, v in given.items() if v is not None}):
        for name in (name for name, value in given.items() if value is None):
            os.environ.pop(name, None)
        with patch.object(sys, "argv", ["raycomp", *arguments]), redirect_stdout(out), redirect_stderr(err):
            code = _code(program)
    said = err.buffer.getvalue().decode(encoding, "backslashreplace")
    printed = out.buffer.getvalue().decode(encoding, "backslashreplace")
    assert code in (0, 2, INTERRUPTED), f"exit code {code}: {said}"
    assert "Traceback" not in said + printed
    if code == 2 and arguments:
        errors = [line for line in re.split(r"\r?\n", said) if line.startswith("error: ")]
        assert len(errors) == 1, f"expected one line of an error: {said!r}"
        assert said.endswith(errors[0] + "\n"), f"the error is not the last line: {said!r}"
    return code, printed + said


def _code(program: Callable[..., None]) -> int:
    try:
        with limited():
            guarded(program)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    raise AssertionError("the program did not exit")
