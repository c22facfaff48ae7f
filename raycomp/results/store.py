"""The record of a sweep: a folder with its configuration and one Parquet file per finished trial.

Each file is written under a temporary name, synced and renamed, so a reader never sees half a row.
Its name is the trial's identity (stage and recipe), so writing one again replaces it: nothing is
counted twice.
"""

import fcntl
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from raycomp.config import SweepConfig
from raycomp.errors import UserError, nearest
from raycomp.results.row import SCHEMA, Row, identity

_CONFIG = "sweep.yaml"
_TRIALS = "trials"
_LOCK = ".lock"


class Store:
    """A sweep's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: TextIO | None = None

    def check(self, config: SweepConfig) -> None:
        """Check, without writing, that the folder can be written and holds no other sweep.

        The number of trials may grow; anything else that differs would mix unequal measurements.

        Raises:
            UserError: for a folder that cannot be written, or that holds another sweep.
        """
        existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise UserError(f"results folder {self.folder}: not writable, because of {existing}")
        path = self.folder / _CONFIG
        if path.is_file():
            self._check_same(path, config.model_dump(mode="json"))

    def open(self, config: SweepConfig) -> None:
        """Create the folder, or go on in it; see `check` and `hold`.

        Raises:
            UserError: for a folder that cannot be written, that holds another sweep, or that another process writes to.
        """
        self.check(config)
        try:
            (self.folder / _TRIALS).mkdir(parents=True, exist_ok=True)
            self.hold()
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            _write_atomically(self.folder / _CONFIG, text.encode())
        except OSError as error:
            raise UserError(f"results folder {self.folder}: not writable ({error.strerror})") from None

    def hold(self) -> None:
        """Keep other jobs out of the folder for as long as this store lives, or its process.

        Raises:
            UserError: where another job holds it.
        """
        if self._held is not None:
            return
        held = (self.folder / _LOCK).open("a+")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            raise UserError(
                f"results folder {self.folder}: {held.read() or 'another job'} is writing to it; wait, or choose "
                "another --name"
            ) from None
        held.truncate(0)
        held.write(f"process {os.getpid()} on {socket.gethostname()}")
        held.flush()
        self._held = held

    def _check_same(self, path: Path, ours: dict[str, object]) -> None:
        theirs = yaml.safe_load(path.read_text())
        with suppress(ValidationError):  # fields that are newer than the sweep take their defaults
            theirs = SweepConfig.model_validate(theirs).model_dump(mode="json")
        difference = _difference(_without_trials(theirs), _without_trials(ours))
        if difference is not None:
            field, before, now = difference
            raise UserError(
                f"results folder {self.folder}: its sweep has {field} {before!r}, now {now!r}; choose another --name"
            )

    def write(self, row: Row) -> Path:
        """Write one row, whole or not at all."""
        path = self._path(row)
        table = pa.Table.from_pylist([row], schema=SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        _write_atomically(path, sink.getvalue().to_pybytes())
        return path

    def read(self, stage: str, recipe_id: str) -> Row | None:
        """One row, or None where it is not written."""
        path = self._path({"stage": stage, "recipe_id": recipe_id})
        return _read(path)[0] if path.is_file() else None

    def rows(self) -> list[Row]:
        """All rows, by stage and order of proposal; an unreadable file is an error.

        Raises:
            UserError: for a file that is not a raycomp row.
        """
        rows: list[Row] = []
        for path in sorted((self.folder / _TRIALS).glob("*.parquet")):
            rows += _read(path)
        return sorted(rows, key=lambda row: (row["stage"] != "search", row["number"]))

    def _path(self, row: Row) -> Path:
        return self.folder / _TRIALS / f"{identity(row)}.parquet"

    def config(self) -> SweepConfig:
        """The configuration the sweep was started with.

        Raises:
            UserError: when the folder holds no sweep.
        """
        path = self.folder / _CONFIG
        if not path.is_file():
            around = self.folder.parent
            there = sorted(p.parent.name for p in around.glob(f"*/{_CONFIG}")) if around.is_dir() else []
            hint = nearest(self.folder.name, there) if there else f"there is none in {around}"
            raise UserError(f"no sweep in {self.folder}; {hint}")
        return SweepConfig.model_validate(yaml.safe_load(path.read_text()))


def _read(path: Path) -> list[Row]:
    try:
        rows: list[Row] = pq.ParquetFile(path).read().to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    return rows


def completed(rows: Iterable[Row], stage: str) -> list[Row]:
    """The complete rows of one stage."""
    return [row for row in rows if row["stage"] == stage and row["status"] == "complete"]


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _without_trials(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that must not change: not how much is run, nor a training that measures nothing."""
    kept = dict(config)
    free = {"search": ("trials", "workers", "max_failures"), "benchmark": ("methods", "speedups", "seeds")}
    for section, fields in free.items():
        kept[section] = {k: v for k, v in dict(kept.get(section) or {}).items() if k not in fields}
    recoveries = kept["benchmark"].get("recovery"), kept.get("recovery")
    trains = any(recovery and recovery["steps"] for recovery in recoveries)
    for section in ("elastic", "refine"):  # what they make says how it was made
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
