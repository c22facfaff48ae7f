# SPDX-License-Identifier: Apache-2.0
"""The record of a sweep: a folder with its configuration and one Parquet file per finished trial.

Writes are atomic, so a reader never sees half a row. A file is named by its row's identity, so writing a row again
replaces it and nothing is counted twice. `compact` merges many files into one; a row's file that is written later
takes precedence over it.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from raycomp.config import LONGEST_NAME, NAME, SweepConfig, explain, parsed
from raycomp.errors import UserError, first_line, logger, nearest
from raycomp.files import write_bytes
from raycomp.renamed import COLUMNS, renamed_fields
from raycomp.results.lock import Lock
from raycomp.results.row import SCHEMA, Row, rows_of, searched, table_of
from raycomp.results.steering import Request, Steering
from raycomp.storage import AnyPath, located, remove_folder

_CONFIG = "sweep.yaml"
_TRIALS = "trials"
_COMPACT = "compact.parquet"
_FINISHED = "finished"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+%-]*")
_REQUIRED = ("stage", "recipe_id", "status")  # columns
_READERS = 16  # files read in parallel, because object storage answers in tens of milliseconds


def sweep_folder(results: str, name: str) -> AnyPath:
    """Return the folder of a sweep within the results, a folder or a URI.

    Raise a UserError for a name that leads out of the results, or an unknown kind of URI.
    """
    if not re.fullmatch(NAME, name):
        raise UserError(f"sweep name {name!r}: use only letters, digits, '.', '_', '-'; start with a letter or digit")
    if len(name) > LONGEST_NAME:
        raise UserError(f"sweep name {name[:20]}...: {len(name)} characters; at most {LONGEST_NAME}")
    return located(results) / name


class Store:
    """A sweep's folder."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self.lock, self.steering = Lock(folder), Steering(folder)
        self._warned_of_columns, self._warned_of_fields = False, False

    def check(self, config: SweepConfig) -> None:
        """Raise a UserError if the folder is not writable or holds another sweep; lock an existing sweep.

        The number of trials may grow. Other differences would mix measurements that cannot be compared.
        """
        if isinstance(self.folder, Path):
            existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK):
                raise UserError(f"results folder {self.folder}: not writable, because of {existing}")
        with self._writing():
            if (self.folder / _CONFIG).is_file():
                self._check_same(config.model_dump(mode="json"))
                self.lock.take()

    def open(self, config: SweepConfig) -> None:
        """Create the folder or resume its sweep, and lock it; raises what `check` raises."""
        self.check(config)
        with self._writing():
            (self.folder / _TRIALS).mkdir(parents=True, exist_ok=True)
            self.lock.take()
            for left in self.folder.glob(f"{_TRIALS}/.*.tmp"):  # from a process killed during a write
                left.unlink(missing_ok=True)
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            write_bytes(self.folder / _CONFIG, text.encode())
            (self.folder / _FINISHED).unlink(missing_ok=True)

    def ask(self, request: Request) -> None:
        """Make a request of the search that writes to the folder; raises what `write` raises."""
        with self._writing():
            self.steering.ask(request)

    def finish(self) -> None:
        """Mark the sweep as finished until it is opened again; raises what `write` raises."""
        with self._writing():
            write_bytes(self.folder / _FINISHED, b"")

    @property
    def is_finished(self) -> bool:
        """Whether the sweep is marked as finished."""
        return (self.folder / _FINISHED).is_file()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or first_line(error)
            raise UserError(f"results folder {self.folder}: not writable ({reason})") from None

    def _check_same(self, ours: dict[str, object]) -> None:
        theirs = self.config().model_dump(mode="json")  # fields newer than the sweep take their defaults
        if difference := _difference(_fixed_settings(theirs), _fixed_settings(ours)):
            field, before, now = difference
            raise UserError(
                f"results folder {self.folder}: its sweep has {field} {before!r}, now {now!r}; choose another --name"
            )

    def write(self, row: Row) -> None:
        """Write one row atomically; raise a UserError if that fails, for example because the disk is full."""
        with self._writing():
            write_bytes(self._path(row.identity), _parquet([row]))

    def read(self, stage: str, recipe_id: str) -> Row | None:
        """Return the row of a trial, or None if it was not written."""
        path = self._path(searched(stage, recipe_id))
        return _read(path)[1][0] if path.is_file() else None

    def rows(self) -> list[Row]:
        """Return all rows, by stage and proposal order; raise a UserError for a file that holds none.

        One warning names the columns that rows of an older version lack or have under an old name.
        """
        paths = self.files()
        with ThreadPoolExecutor(1 if isinstance(self.folder, Path) else _READERS) as readers:
            read = list(readers.map(_read, paths))
        self._warn({tuple(names) for names, _ in read})
        latest = {row.identity: row for _, rows in read for row in rows}
        return sorted(latest.values(), key=lambda row: (row.stage not in ("probe", "search"), row.number))

    def _warn(self, versions: Collection[Sequence[str]]) -> None:
        """Warn once of columns that rows of an older version lack or have under an old name."""
        old = {name for names in versions for name in COLUMNS if name in names}
        present = [{COLUMNS.get(name, name) for name in names} for names in versions]
        missing = [name for name in SCHEMA.names if any(name not in names for names in present)]
        parts = [f"have {name} for {COLUMNS[name]}" for name in sorted(old)]
        parts += [f"have no {', '.join(missing)}"] if missing else []
        if parts and not self._warned_of_columns:
            self._warned_of_columns = True
            logger.warning("%s: rows of an older version %s", self.folder, ", ".join(parts))

    def files(self) -> list[AnyPath]:
        """Return the files that hold rows; if two hold the same row, the later file counts."""
        paths = (self.folder / _TRIALS).glob("*.parquet")
        return sorted(paths, key=lambda path: (path.name != _COMPACT, path.name))

    def compact(self) -> int:
        """Merge all rows into one file and return the number of files replaced; killing it midway loses nothing.

        Raise a UserError if a job is writing to the folder, or it is not writable.
        """
        self.lock.take()
        replaced = [path for path in self.files() if path.name != _COMPACT]
        try:
            with self._writing():
                if replaced:
                    write_bytes(self.folder / _TRIALS / _COMPACT, _parquet(self.rows()))
                for path in replaced:
                    path.unlink(missing_ok=True)
        finally:
            self.lock.drop()
        return len(replaced)

    def delete(self) -> None:
        """Delete the folder with all files, the settings last, so that an interrupted deletion can be repeated.

        Raise a UserError if a job is writing to it, or it is not writable.
        """
        self.lock.take()
        try:
            with self._writing():
                remove_folder(self.folder, last=(_CONFIG, self.lock.name))
        finally:
            self.lock.drop()

    def _path(self, name: str) -> AnyPath:
        if not _FILE_NAME.fullmatch(name):  # a row from elsewhere must not be written outside the folder
            raise UserError(f"row {name!r}: not a valid file name")
        return self.folder / _TRIALS / f"{name}.parquet"

    def config(self) -> SweepConfig:
        """Return the configuration of the sweep; raise a UserError if there is none, or it cannot be read."""
        path = self.folder / _CONFIG
        if not path.is_file():
            results = self.folder.parent
            names = sorted(p.parent.name for p in results.glob(f"*/{_CONFIG}")) if results.is_dir() else []
            hint = nearest(self.folder.name, names) if names else f"there is none in {results}"
            raise UserError(f"no sweep in {self.folder}; {hint}")
        try:
            settings, old = renamed_fields(_completed(parsed(path.read_text())))
            if old and not self._warned_of_fields:
                self._warned_of_fields = True
                logger.warning("%s: %s", path, ", ".join(old))
            name = self.folder.name  # older versions stored the name of the search space
            return SweepConfig.model_validate({**settings, "name": name})
        except ValidationError as error:
            raise UserError(f"{path}: {explain(error, SweepConfig)}") from None
        except (TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path}: not the settings of a sweep ({first_line(error)})") from None


def _completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Return stored settings with what older releases did before a field existed, without removed fields."""
    if not isinstance(settings, dict):
        raise TypeError("expected sections")
    old = {"decoder_dropout": 0.0}
    train = {"train": old | settings["train"]} if "train" in settings else {}
    sections = {name: settings[name] for name in ("elastic", "refine", "policy") if "train" in settings.get(name, {})}
    trained = {name: section | {"train": old | section["train"]} for name, section in sections.items()}
    if isinstance(nvit := settings.get("nvit"), dict) and nvit.get("least_heads") == 1:  # a setting until 0.1
        settings = settings | {"nvit": {name: value for name, value in nvit.items() if name != "least_heads"}}
    return settings | train | trained


def _read(path: AnyPath) -> tuple[list[str], list[Row]]:
    """Return the columns of a file and its rows."""
    try:  # without threads: one that releases the file's bytes while Python exits aborts the process
        table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({first_line(error)})") from None
    names = list(table.column_names)
    if missing := set(_REQUIRED) - set(names):
        raise UserError(f"{path}: not a raycomp row; it has no column {min(missing)!r}")
    return names, rows_of(table)


def _parquet(rows: list[Row]) -> bytes:
    """Return the bytes of a file; compression, dictionary and statistics of one row take time and save no space."""
    sink, many = pa.BufferOutputStream(), len(rows) > 1
    compression = "zstd" if many else "none"
    pq.write_table(table_of(rows), sink, compression=compression, use_dictionary=many, write_statistics=many)
    return bytes(sink.getvalue().to_pybytes())


def _fixed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that must match to resume: all except run length and training that does not affect rows."""
    free = {
        "search": ("trials", "workers", "max_failures", "trial_seconds", "gpus_per_trial", "memory_per_trial"),
        "benchmark": ("methods", "speedups", "seeds"),
    }
    elsewhere = ("name", "elastic", "refine", "train")  # the folder has the name; models record their training
    kept = {section: value for section, value in config.items() if section not in elsewhere}
    for section, fields in free.items():
        kept[section] = {name: value for name, value in config[section].items() if name not in fields}
    recoveries = config["benchmark"]["recovery"], config["recovery"], config["nvit"]["train_between"]
    trains = any(recovery["steps"] for recovery in recoveries)
    return {**kept, "train": config["train"]} if trains else kept  # last: a changed recovery is reported first


def _difference(theirs: object, ours: object, field: str = "") -> tuple[str, object, object] | None:
    """Return the first field that differs, with both values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        parts = (_difference(theirs.get(key), ours.get(key), f"{field}.{key}".lstrip(".")) for key in theirs | ours)
        return next(filter(None, parts), None)
    return None if theirs == ours else (field, theirs, ours)
