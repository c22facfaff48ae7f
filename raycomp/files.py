"""Write files whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from raycomp.errors import UserError


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, of the same suffix, that takes its place if the block ends without an error.

    Raises:
        UserError: where it cannot be written, because the disk is full for example; `path` stays as it was.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # what Python, torch and safetensors raise on a full disk
        raise UserError(f"{path}: not written: {str(error).splitlines()[0]}") from error
    finally:
        temporary.unlink(missing_ok=True)
