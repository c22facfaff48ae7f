"""The sweep's trials as an Optuna study, for Optuna's dashboard and tools: in a journal file, or a database by URI.

It is a copy. The proposer's own study is in memory and made from the rows: there an ask costs milliseconds, whatever
the database does, and no trial that was cut off is left behind.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from raycomp.results.mirror import Mirror
from raycomp.results.row import Row
from raycomp.search.asker import as_trial
from raycomp.search.pareto import DIRECTIONS, values
from raycomp.search.space import Space
from raycomp.storage import AnyPath

_ROW = "raycomp.row"
_OBJECTIVES = ["clean_miou", "corrupted_miou", "cost"]


def study_uri(given: str | None, folder: AnyPath) -> str | None:
    """Where the study is kept: as given, else in a journal file of the sweep's folder; None in object storage."""
    if given is not None:
        return given
    return f"journal:{(folder / 'study.journal').resolve()}" if isinstance(folder, Path) else None


class StudyCopy(Mirror):
    """Copies search trials, complete and failed, each once."""

    def __init__(self, uri: str, name: str, space: Space, warn: Callable[[str], None]) -> None:
        """`uri`: journal:FILE, or a database as SQLAlchemy names it."""
        super().__init__("Optuna's study", uri, warn)
        self._uri, self._study_name, self._space = uri, name, space
        self._study: optuna.Study | None = None
        self._there: set[str] = set()

    def connect(self) -> None:
        """Open or create the study, and see which rows it has."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=_storage(self._uri), study_name=self._study_name, directions=list(DIRECTIONS), load_if_exists=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names(_OBJECTIVES)
        self._there = {str(trial.user_attrs.get(_ROW)) for trial in self._study.get_trials(deepcopy=False)}

    def write(self, item: Row | str) -> None:
        """Add a row of the search."""
        assert self._study is not None
        if isinstance(item, str) or item["stage"] != "search":
            return
        key = f"{item['recipe_id']} {item['status']}"
        if key in self._there:
            return
        self._study.add_trial(self._trial(item, key))
        self._there.add(key)

    def _trial(self, row: Row, key: str) -> FrozenTrial:
        attrs: dict[str, Any] = {_ROW: key, **{name: row[name] for name in ("recipe_id", "origin", "label")}}
        frozen = as_trial(self._space, row, values(row) if row["status"] == "complete" else None)
        if frozen is not None:
            frozen.user_attrs = attrs
            return frozen
        failed = row["status"] == "failed"  # else stopped, or a known recipe that Optuna's distributions do not hold
        return create_trial(state=TrialState.FAIL if failed else TrialState.PRUNED, user_attrs=attrs)


def _storage(uri: str) -> BaseStorage:
    if uri.startswith("journal:"):
        return JournalStorage(JournalFileBackend(uri.removeprefix("journal:")))
    return RDBStorage(uri)
