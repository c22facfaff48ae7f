# SPDX-License-Identifier: Apache-2.0
"""Read files and write them atomically, on disk or in object storage."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.fs import LocalFileSystem, copy_files
from safetensors import SafetensorError

from raycomp.errors import UserError, first_line
from raycomp.storage import AnyPath, resolved

_UMASK = os.umask(0)
os.umask(_UMASK)


def check_outputs(option: str, outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Raise a UserError, before hours of work, for an output that is a folder or a file that the command reads."""
    read = {resolved(path) for path in inputs if path is not None}
    for path in outputs:
        if resolved(path) in read:
            raise UserError(f"{option}: would overwrite {path}, which this command reads; choose another")
        if path.is_dir():
            raise UserError(f"{option}: {path} is a folder; expected a file")


@contextmanager
def written(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary local path of the same suffix that becomes `path` if the block ends without an error.

    Raise a UserError if writing fails, for example on a full disk; `path` is unchanged then.
    """
    try:
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _replacing(path, path.suffix) as temporary:
                yield temporary
        else:
            with tempfile.TemporaryDirectory(prefix="raycomp-") as scratch:
                temporary = Path(scratch) / path.name
                yield temporary
                copy_files(str(temporary), str(path.key), LocalFileSystem(), path.fs)
    except (OSError, RuntimeError, SafetensorError) as error:  # raised by Python, torch and safetensors on a full disk
        raise UserError(f"{path}: not written: {first_line(error)}") from error


def put_aside(path: Path) -> Path:
    """Rename a broken file without overwriting another, and return its new path."""
    number = 1
    while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    return path.rename(aside)


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Write a small file atomically in an existing folder; raise an OSError, with `path` unchanged, if that fails."""
    if isinstance(path, Path):
        with _replacing(path) as temporary:
            temporary.write_bytes(data)
    else:
        path.write_bytes(data)


@contextmanager
def _replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary file beside `path` that durably replaces it if the block ends without an error.

    Some writers choose the format by `suffix`. Without one, no pattern such as `*.parquet` matches the temporary file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)  # safetensors creates files that only their owner can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def fetched(path: AnyPath) -> Iterator[Path]:
    """Yield a local path to read a file from: its own, or that of a temporary copy."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="raycomp-") as scratch:
        copy = Path(scratch) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy
