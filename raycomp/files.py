"""Write files whole or not at all, and read them, on disk or in object storage."""

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
    """Check, before hours of work, that a command overwrites none of the files that it reads.

    Raises:
        UserError: for an output that is an input, or a folder.
    """
    read = {resolved(path) for path in inputs if path is not None}
    for path in outputs:
        if resolved(path) in read:
            raise UserError(f"{option}: would overwrite {path}, which this command reads; choose another")
        if path.is_dir():
            raise UserError(f"{option}: {path} is a folder; expected a file")


@contextmanager
def written(path: AnyPath) -> Iterator[Path]:
    """A temporary local path of the same suffix that becomes `path` if the block ends without an error.

    Raises:
        UserError: where it cannot be written, because the disk is full for example; `path` stays as it was.
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
    except (OSError, RuntimeError, SafetensorError) as error:  # what Python, torch and safetensors raise on a full disk
        raise UserError(f"{path}: not written: {first_line(error)}") from error


def put_aside(path: Path) -> Path:
    """Rename a broken file, never over another one, and return its new path."""
    number = 1
    while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    return path.rename(aside)


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Write a small file whole or not at all, in a folder that exists.

    Raises:
        OSError: where it cannot be written; `path` stays as it was.
    """
    if isinstance(path, Path):
        with _replacing(path) as temporary:
            temporary.write_bytes(data)
    else:
        path.write_bytes(data)


@contextmanager
def _replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary file beside `path` that replaces it if the block ends without an error, to outlive a power cut.

    A `suffix` is for writers that go by it; without one, no pattern such as `*.parquet` finds the temporary file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)  # safetensors makes files that their owner alone can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def fetched(path: AnyPath) -> Iterator[Path]:
    """A local path to read a file from: its own, or that of a copy for the time of the block."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="raycomp-") as scratch:
        copy = Path(scratch) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy
