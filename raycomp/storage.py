# SPDX-License-Identifier: Apache-2.0
"""Paths of results: a local folder, or object storage (`s3://bucket/results`) through pyarrow's file systems.

`ObjectPath` has the part of pathlib's interface that raycomp uses, so that the same code works for both.

Why not universal_pathlib: 0.3.10 with s3fs was tried against an S3 server. With its default cache, rows of other
processes stay invisible or raise FileExpired. Without it, it prints the access keys of a URI and lists 100 rows six
times more slowly. s3fs would also be a second S3 client, with an older botocore than boto3 needs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from pyarrow import ArrowInvalid
from pyarrow.fs import FileSelector, FileSystem, FileType

from raycomp.errors import UserError, first_line, without_password

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")


@dataclass(frozen=True)
class ObjectPath:
    """A file or folder in object storage. Writing a file is atomic."""

    fs: FileSystem
    key: PurePosixPath
    """Bucket, prefix and name."""
    scheme: str

    def __str__(self) -> str:
        """Return the URI without access keys and options."""
        return f"{self.scheme}://{self.key}"

    def __truediv__(self, name: str | PurePosixPath) -> ObjectPath:
        return ObjectPath(self.fs, self.key / name, self.scheme)

    def __lt__(self, other: ObjectPath) -> bool:
        return self.key < other.key

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def stem(self) -> str:
        return self.key.stem

    @property
    def suffix(self) -> str:
        return self.key.suffix

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.fs, self.key.parent, self.scheme)

    def resolve(self) -> ObjectPath:
        return self

    def is_file(self) -> bool:
        return bool(self._type() == FileType.File)

    def is_dir(self) -> bool:
        return bool(self._type() == FileType.Directory)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: object storage has no folders."""

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Yield files and folders below this one; every part of the pattern is one level."""
        first, _, rest = pattern.partition("/")
        for entry in self.fs.get_file_info(FileSelector(str(self.key), allow_not_found=True)):
            path = ObjectPath(self.fs, PurePosixPath(entry.path), self.scheme)
            if not fnmatch(path.name, first):
                continue
            if not rest:
                yield path
            elif entry.type == FileType.Directory:
                yield from path.glob(rest)

    def read_bytes(self) -> bytes:
        with self.fs.open_input_stream(str(self.key)) as stream:
            return bytes(stream.read())

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        with self.fs.open_output_stream(str(self.key)) as stream:
            stream.write(data)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self.fs.delete_file(str(self.key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _type(self) -> FileType:
        return self.fs.get_file_info(str(self.key)).type


AnyPath = Path | ObjectPath


def located(text: str) -> AnyPath:
    """Return the local path or the path that a URI names; access keys come from the environment, as for AWS tools.

    Raise a UserError for an unknown URI scheme, and for a name that is not UTF-8, which no row or URI can hold.
    """
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise UserError(f"{text.encode(errors='surrogateescape')!r}: the path is not UTF-8")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Path(text)
    try:
        fs, key = FileSystem.from_uri(text)
    except (ArrowInvalid, OSError) as error:
        raise UserError(f"{without_password(text)}: unknown storage ({first_line(error)})") from None
    if scheme[1] == "file":
        return Path(key)
    if not key:
        raise UserError(f"{without_password(text)}: names no bucket; for example {scheme[1]}://bucket/results")
    return ObjectPath(fs, PurePosixPath(key), scheme[1])


def remove_folder(folder: AnyPath, last: Sequence[str]) -> None:
    """Remove a folder with all files; those of the names `last` go at the end, in this order.

    A link goes with the folder that it leads to.
    """
    if isinstance(folder, Path):
        place = folder.resolve()
        for path in place.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in last:
                path.unlink()
        for name in last:
            (place / name).unlink(missing_ok=True)
        shutil.rmtree(place)
        if folder.is_symlink():
            folder.unlink()
        return
    entries = folder.fs.get_file_info(FileSelector(str(folder.key), recursive=True, allow_not_found=True))
    files = [PurePosixPath(entry.path) for entry in entries if entry.type == FileType.File]
    for file in sorted(files, key=lambda file: last.index(file.name) if file.name in last else -1):
        folder.fs.delete_file(str(file))
    folder.fs.delete_dir(str(folder.key))  # the markers of folders that pyarrow leaves


def resolved(path: Path) -> Path:
    """Resolve links; a link loop gives what `Path.resolve` returns since Python 3.13, not an error."""
    return Path(os.path.realpath(path))
