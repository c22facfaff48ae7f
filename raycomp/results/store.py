"""The record of a sweep: a folder with its configuration and one Parquet file per finished trial.

A file appears whole or not at all, so a reader never sees half a row. Its name is the row's identity
(stage and recipe), so writing one again replaces it: nothing is counted twice. `compact` puts the rows
of many files into one; a row's own file, written later, comes before what that holds.
"""

import logging
import os
import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from raycomp.config import LONGEST_NAME, NAME, SweepConfig, explain, parsed
from raycomp.errors import UserError, first_line, nearest
from raycomp.files import write_bytes
from raycomp.renamed import COLUMNS, renamed_fields
from raycomp.results.lock import Lock
from raycomp.results.row import SCHEMA, Row, rows_of, searched, table_of
from raycomp.storage import AnyPath, located

_LOG = logging.getLogger(__name__)
_CONFIG = "sweep.yaml"
_TRIALS = "trials"
_COMPACT = "compact.parquet"
_FINISHED = "finished"
_ROW = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+%-]*")  # names of files
_NEEDED = ("stage", "recipe_id", "status")  # columns
_READERS = 16  # files read at once: object storage answers in tens of milliseconds


def sweep_folder(results: str, name: str) -> AnyPath:
    """The folder of a sweep among the results, which are a folder or a URI.

    Raises:
        UserError: for a name that would lead out of the results, or a URI of an unknown kind.
    """
    if not re.fullmatch(NAME, name):
        raise UserError(f"sweep name {name!r}: letters, digits, '.', '_' and '-' alone, and a letter or digit first")
    if len(name) > LONGEST_NAME:
        raise UserError(f"sweep name {name[:20]}...: {len(name)} characters; at most {LONGEST_NAME}")
    return located(results) / name


class Store:
    """A sweep's folder."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self.lock = Lock(folder)
        self._warned, self._told_of_fields = False, False

    def check(self, config: SweepConfig) -> None:
        """Check that the folder can be written and holds no other sweep; one that is there is kept from other jobs.

        The number of trials may grow; anything else that differs would mix unequal measurements.

        Raises:
            UserError: for a folder that cannot be written, that holds another sweep, or that another job writes to.
        """
        if isinstance(self.folder, Path):
            existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK):
                raise UserError(f"results folder {self.folder}: not writable, because of {existing}")
        path = self.folder / _CONFIG
        try:
            if path.is_file():
                self._check_same(config.model_dump(mode="json"))
                self.lock.take()
        except OSError as error:
            raise self._unwritable(error) from None

    def open(self, config: SweepConfig) -> None:
        """Create the folder, or go on in it, and keep other jobs out; raises what `check` does."""
        self.check(config)
        try:
            (self.folder / _TRIALS).mkdir(parents=True, exist_ok=True)
            self.lock.take()
            for left in self.folder.glob(f"{_TRIALS}/.*.tmp"):  # by a process that was killed while it wrote
                left.unlink(missing_ok=True)
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            write_bytes(self.folder / _CONFIG, text.encode())
            (self.folder / _FINISHED).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def finish(self) -> None:
        """Mark the sweep as one that has nothing left to measure, until it is opened again.

        Raises:
            UserError: where the mark cannot be written.
        """
        try:
            write_bytes(self.folder / _FINISHED, b"")
        except OSError as error:
            raise self._unwritable(error) from None

    @property
    def is_finished(self) -> bool:
        """Whether the sweep is marked so."""
        return (self.folder / _FINISHED).is_file()

    def _unwritable(self, error: OSError) -> UserError:
        reason = error.strerror or first_line(error)
        return UserError(f"results folder {self.folder}: not writable ({reason})")

    def _check_same(self, ours: dict[str, object]) -> None:
        theirs = self.config().model_dump(mode="json")  # fields that are newer than the sweep take their defaults
        difference = _difference(_without_trials(theirs), _without_trials(ours))
        if difference is not None:
            field, before, now = difference
            raise UserError(
                f"results folder {self.folder}: its sweep has {field} {before!r}, now {now!r}; choose another --name"
            )

    def write(self, row: Row) -> None:
        """Write one row, whole or not at all.

        Raises:
            UserError: where it cannot be written, because the disk is full for example.
        """
        try:
            write_bytes(self._path(row.identity), _parquet([row]))
        except OSError as error:
            raise self._unwritable(error) from None

    def read(self, stage: str, recipe_id: str) -> Row | None:
        """The row that a trial has just written, or None where it did not."""
        path = self._path(searched(stage, recipe_id))
        return _read(path)[1][0] if path.is_file() else None

    def _named(self, settings: dict[str, Any], path: AnyPath) -> dict[str, Any]:
        """Settings under the names of today; old names are told once."""
        settings, old = renamed_fields(settings)
        if old and not self._told_of_fields:
            self._told_of_fields = True
            _LOG.warning("%s: %s", path, ", ".join(old))
        return settings

    def rows(self) -> list[Row]:
        """All rows, by stage and order of proposal; an unreadable file is an error.

        Columns that rows of an older version lack are named in one warning.

        Raises:
            UserError: for a file that is not a raycomp row.
        """
        paths = self.files()
        with ThreadPoolExecutor(1 if isinstance(self.folder, Path) else _READERS) as readers:
            read = list(readers.map(_read, paths))
        self._warn({tuple(names) for names, _ in read})
        found = {row.identity: row for _, rows in read for row in rows}
        return sorted(found.values(), key=lambda row: (row.stage != "search", row.number))

    def _warn(self, versions: Collection[Sequence[str]]) -> None:
        """Tell once which columns rows of an older version lack, or have under another name."""
        old = {name for names in versions for name in COLUMNS if name in names}
        present = [{COLUMNS.get(name, name) for name in names} for names in versions]
        missing = [name for name in SCHEMA.names if any(name not in names for names in present)]
        told = [f"have {name} for {COLUMNS[name]}" for name in sorted(old)]
        told += [f"have no {', '.join(missing)}"] if missing else []
        if told and not self._warned:
            self._warned = True
            _LOG.warning("%s: rows of an older version %s", self.folder, ", ".join(told))

    def files(self) -> list[AnyPath]:
        """The files that hold rows; where two hold the same one, the later counts."""
        paths = (self.folder / _TRIALS).glob("*.parquet")
        return sorted(paths, key=lambda path: (path.name != _COMPACT, path.name))

    def compact(self) -> int:
        """Put all rows into one file, and return how many files that replaces; killed midway, nothing is lost.

        Raises:
            UserError: where a job writes to the folder, or it cannot be written.
        """
        self.lock.take()
        replaced = [path for path in self.files() if path.name != _COMPACT]
        try:
            if replaced:
                write_bytes(self.folder / _TRIALS / _COMPACT, _parquet(self.rows()))
            for path in replaced:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            self.lock.drop()
        return len(replaced)

    def _path(self, name: str) -> AnyPath:
        if not _ROW.fullmatch(name):  # a row made elsewhere, say: no file outside of the folder
            raise UserError(f"row {name!r}: not a name for a file")
        return self.folder / _TRIALS / f"{name}.parquet"

    def config(self) -> SweepConfig:
        """The configuration the sweep was started with.

        Raises:
            UserError: when the folder holds no sweep, or its settings cannot be read.
        """
        path = self.folder / _CONFIG
        if not path.is_file():
            around = self.folder.parent
            there = sorted(p.parent.name for p in around.glob(f"*/{_CONFIG}")) if around.is_dir() else []
            hint = nearest(self.folder.name, there) if there else f"there is none in {around}"
            raise UserError(f"no sweep in {self.folder}; {hint}")
        try:
            settings = self._named(_completed(parsed(path.read_text())), path)
            return SweepConfig.model_validate({**settings, "name": self.folder.name})  # older ones: their space's name
        except ValidationError as error:
            raise UserError(f"{path}: {explain(error, SweepConfig)}") from None
        except (TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path}: not the settings of a sweep ({first_line(error)})") from None


def _completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with what held in releases that had no field for it, without the field that is no more."""
    undropped = {"decoder_dropout": 0.0}
    if not isinstance(settings, dict):
        raise TypeError("expected sections")
    train = {"train": undropped | settings["train"]} if "train" in settings else {}
    sections = {name: settings[name] for name in ("elastic", "refine", "policy") if "train" in settings.get(name, {})}
    trained = {name: section | {"train": undropped | section["train"]} for name, section in sections.items()}
    if isinstance(nvit := settings.get("nvit"), dict) and nvit.get("least_heads") == 1:  # a setting until 0.1
        settings = settings | {"nvit": {name: value for name, value in nvit.items() if name != "least_heads"}}
    return settings | train | trained


def _read(path: AnyPath) -> tuple[list[str], list[Row]]:
    """The columns of a file and its rows."""
    try:  # without threads: one that lets go of the file's bytes while Python ends aborts the process
        table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({first_line(error)})") from None
    names = list(table.column_names)
    if missing := set(_NEEDED) - set(names):
        raise UserError(f"{path}: no row of raycomp's, as it has no column {min(missing)!r}")
    return names, rows_of(table)


def _parquet(rows: list[Row]) -> bytes:
    """A file's bytes; compressing and describing a single row takes longer than writing it, and makes it no smaller."""
    sink, many = pa.BufferOutputStream(), len(rows) > 1
    packed = {"compression": "zstd" if many else "none", "use_dictionary": many, "write_statistics": many}
    pq.write_table(table_of(rows), sink, **packed)
    return bytes(sink.getvalue().to_pybytes())


def _without_trials(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that must not change: not how much is run, nor a training that measures nothing."""
    kept = dict(config)
    free = {
        "search": ("trials", "workers", "max_failures", "trial_seconds", "gpus_per_trial", "memory_per_trial"),
        "benchmark": ("methods", "speedups", "seeds"),
    }
    for section, fields in free.items():
        kept[section] = {k: v for k, v in dict(kept.get(section) or {}).items() if k not in fields}
    between = dict(kept.get("nvit") or {}).get("train_between")
    recoveries = kept["benchmark"].get("recovery"), kept.get("recovery"), between
    trains = any(recovery and recovery["steps"] for recovery in recoveries)
    for section in ("name", "elastic", "refine"):  # a folder has one name; what the others make says how it was made
        kept.pop(section, None)
    training = kept.pop("train", None)
    return {**kept, "train": training} if trains else kept  # last: a changed recovery is told first


def _difference(theirs: object, ours: object, field: str = "") -> tuple[str, object, object] | None:
    """The first field that differs, with both values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {**theirs, **ours}:
            found = _difference(theirs.get(key), ours.get(key), f"{field}.{key}".lstrip("."))
            if found is not None:
                return found
        return None
    return None if theirs == ours else (field, theirs, ours)
