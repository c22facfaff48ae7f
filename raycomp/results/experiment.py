# SPDX-License-Identifier: Apache-2.0
"""MLflow's experiment and its SQLite file: a moved file is repaired, a damaged one is put aside."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from raycomp.files import put_aside

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_NAME = "raycomp"
_ARTIFACTS = "mlartifacts"
_ARTIFACT_COLUMNS = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
"""Columns of MLflow's tables that hold the absolute path of the artifacts. MLflow's API cannot change them."""


def sqlite_uri(file: Path) -> str:
    """Return the URI of a SQLite file; its path may contain any characters."""
    escaped = "".join(f"%{ord(sign):02X}" if sign in "%?#" else sign for sign in str(file))  # all that SQLAlchemy needs
    driver = "" if escaped == str(file) else "+pysqlite"  # without it, MLflow creates a folder of the escaped name
    return f"sqlite{driver}:///{escaped}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for servers and other databases."""
    if not uri.startswith(("sqlite:", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url  # comes with MLflow

    name = make_url(uri).database
    return Path(name) if name and name != ":memory:" else None


def damage(file: Path) -> str:
    """Return why a SQLite file is unreadable; empty if it is readable, missing, or temporarily inaccessible."""
    if not file.is_file():
        return ""
    try:
        with closing(sqlite3.connect(file)) as database:
            result = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError:  # for example, locked
        return ""
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if result == "ok" else " ".join(result.split())


def clear(file: Path, warn: Callable[[str], None]) -> None:
    """Put a damaged database and SQLite's files beside it aside, so that a new database takes its place."""
    if not (reason := damage(file)):
        return
    aside = put_aside(file)
    for suffix in ("-journal", "-wal", "-shm"):
        if (beside := file.with_name(file.name + suffix)).exists():
            beside.rename(aside.with_name(aside.name + suffix))
    warn(f"{file} was damaged ({reason}): renamed to {aside.name}; this sweep's rows go into a new database")


def active(client: "MlflowClient") -> "Experiment | None":
    """Return the experiment; None if it does not exist or was deleted. MLflow keeps deleted experiments."""
    experiment = client.get_experiment_by_name(_NAME)
    return None if experiment is None or experiment.lifecycle_stage == "deleted" else experiment


def opened(client: "MlflowClient", uri: str, warn: Callable[[str], None]) -> str:
    """Return the experiment's id; create it if it does not exist. Artifacts lie beside a SQLite file."""
    file = sqlite_file(uri)
    artifacts = None if file is None else (file.parent / _ARTIFACTS).resolve().as_uri()
    if (experiment := active(client)) is not None:
        if file is not None and artifacts is not None:
            _move(file, experiment, artifacts)
        return str(experiment.experiment_id)
    if (deleted := client.get_experiment_by_name(_NAME)) is not None:
        key, aside = deleted.experiment_id, f"{_NAME}-deleted-{deleted.experiment_id}"
        client.restore_experiment(key)  # a deleted experiment cannot be renamed
        client.rename_experiment(key, aside)
        client.delete_experiment(key)
        warn(f"MLflow's experiment {_NAME} was deleted: renamed to {aside}; this sweep's rows go into a new experiment")
    return str(client.create_experiment(_NAME, artifacts))


def _move(file: Path, experiment: "Experiment", artifacts: str) -> None:
    """Point a database that was copied or moved to the artifacts that came with it."""
    before = str(experiment.artifact_location)
    if before == artifacts or not before.startswith("file:") or not before.endswith(f"/{_ARTIFACTS}"):
        return
    with closing(sqlite3.connect(file, timeout=20)) as database, database:
        for table, column in _ARTIFACT_COLUMNS.items():
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608  constant names
                f"WHERE experiment_id = ? AND substr({column} || '/', 1, ?) = ?",
                (artifacts, len(before) + 1, experiment.experiment_id, len(before) + 1, f"{before}/"),
            )
