# SPDX-License-Identifier: Apache-2.0
"""Replicate a sweep's trials to an Optuna study for its dashboard and tools, in a journal file or a database.

The proposer uses another study, in memory and rebuilt from the rows: an ask takes milliseconds whatever the database
does, and interrupted trials leave nothing behind.
"""

import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import LOCK_FILE_SUFFIX
from optuna.trial import TrialState, create_trial

from raycomp import objectives
from raycomp.errors import first_line
from raycomp.files import put_aside
from raycomp.results.replica import Replica
from raycomp.results.row import Row
from raycomp.search.ask_tell import as_trial
from raycomp.space import Space
from raycomp.storage import AnyPath

_ROW = "raycomp.row"
_JOURNAL = "journal:"
_STALE_AFTER = 5.0  # seconds after which an unchanged lock has no owner


def study_uri(given: str | None, folder: AnyPath) -> str | None:
    """Return the URI of the study: `given`, or a journal file in the sweep's folder; None in object storage."""
    if given is not None:
        return given
    return f"{_JOURNAL}{(folder / 'study.journal').resolve()}" if isinstance(folder, Path) else None


def delete_study(uri: str, name: str) -> None:
    """Delete a study from a database, or from a journal file; one that is not there is no error."""
    with suppress(KeyError):
        optuna.delete_study(study_name=name, storage=_opened(uri))


class StudyReplica(Replica):
    """Copies each search trial once, complete or failed."""

    def __init__(self, uri: str, name: str, space: Space, warn: Callable[[str], None]) -> None:
        """`uri`: journal:FILE or an SQLAlchemy database URL."""
        super().__init__("Optuna's study", uri, warn)
        self._uri, self._study_name, self._space = uri, name, space
        self._study: optuna.Study | None = None
        self._stored: set[str] = set()
        """Recipes and statuses of the rows that the study holds."""

    def connect(self) -> None:
        """Open or create the study and list the rows it holds."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=self._storage(),
            study_name=self._study_name,
            directions=objectives.directions(),
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names([objective.name for objective in objectives.OBJECTIVES])
        self._stored = {str(trial.user_attrs.get(_ROW)) for trial in self._study.get_trials(deepcopy=False)}

    def write(self, item: Row | str) -> None:
        """Add a search row."""
        assert self._study is not None
        if isinstance(item, str) or item.stage != "search":
            return
        key = f"{item.recipe_id} {item.status}"
        if key in self._stored:
            return
        trial = as_trial(self._space, item, objectives.values(item) if item.status == "complete" else None)
        if trial is None:  # failed, stopped, or a baseline outside Optuna's distributions
            trial = create_trial(state=TrialState.FAIL if item.status == "failed" else TrialState.PRUNED)
        trial.user_attrs = {_ROW: key, "recipe_id": item.recipe_id, "origin": item.origin, "label": item.label}
        self._study.add_trial(trial)
        self._stored.add(key)

    def _storage(self) -> BaseStorage:
        if not self._uri.startswith(_JOURNAL):
            return _opened(self._uri)
        file = Path(self._uri.removeprefix(_JOURNAL))
        _unlock(file, self._warn)
        try:
            if file.exists() and _is_torn(file):  # Optuna would append to the last line and then read no further
                raise ValueError("its last line is torn")
            return _opened(self._uri)
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # raised while reading its lines
            aside = put_aside(file)
            self._warn(f"{file} was broken ({first_line(error)}): moved to {aside.name}, starting a new one")
            return _opened(self._uri)


def _opened(uri: str) -> BaseStorage:
    if uri.startswith(_JOURNAL):
        return JournalStorage(JournalFileBackend(uri.removeprefix(_JOURNAL)))
    return RDBStorage(uri)


def _is_torn(file: Path) -> bool:
    """Return whether a file's last line has no end."""
    with file.open("rb") as journal:
        size = journal.seek(0, os.SEEK_END)
        journal.seek(max(0, size - 1))
        return journal.read() not in (b"", b"\n")


def _unlock(file: Path, warn: Callable[[str], None]) -> None:
    """Remove the lock of a process that was killed while writing; live processes hold a lock for milliseconds.

    Optuna itself would wait for half a minute, or forever if the lock is a link to a moved file.
    """
    lock = file.with_name(file.name + LOCK_FILE_SUFFIX)
    deadline, first = time.monotonic() + _STALE_AFTER, _identity(lock)
    while first is not None and _identity(lock) == first:
        if time.monotonic() > deadline:
            lock.unlink(missing_ok=True)
            warn(f"{lock} was left by a dead process: removed")
            return
        time.sleep(0.1)


def _identity(lock: Path) -> tuple[int, int] | None:
    try:
        stat = lock.lstat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_ctime_ns
