"""MLflow's experiment, and the SQLite file under it: mended where it was moved, put aside where it is broken."""

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
_PLACES = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
"""Where MLflow's tables hold the folder of the artifacts, which is absolute; no call of its changes one."""


def sqlite_uri(file: Path) -> str:
    """The URI of a SQLite file, whatever signs its path has."""
    coded = str(file)
    for sign in "%?#":  # SQLAlchemy decodes the rest as it stands
        coded = coded.replace(sign, f"%{ord(sign):02X}")
    driver = "" if coded == str(file) else "+pysqlite"  # without one, MLflow makes a folder of the coded name
    return f"sqlite{driver}:///{coded}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for servers and other databases."""
    if not uri.startswith(("sqlite:", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url  # comes with MLflow

    name = make_url(uri).database
    return Path(name) if name and name != ":memory:" else None


def damage(file: Path) -> str:
    """What makes a SQLite file unreadable; empty where nothing does, it is not there, or is out of reach for now."""
    if not file.is_file():
        return ""
    try:
        with closing(sqlite3.connect(file)) as database:
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError:  # locked, say
        return ""
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else " ".join(found.split())


def clear(file: Path, warn: Callable[[str], None]) -> None:
    """Put a damaged database aside, with what SQLite keeps beside it, so that a new one takes its place."""
    if not (reason := damage(file)):
        return
    aside = put_aside(file)
    for suffix in ("-journal", "-wal", "-shm"):
        if (beside := file.with_name(file.name + suffix)).exists():
            beside.rename(aside.with_name(aside.name + suffix))
    warn(f"{file} was broken ({reason}): it is {aside.name} now, and this sweep's rows go into a new one")


def active(client: "MlflowClient") -> "Experiment | None":
    """The experiment; None where there is none, or somebody deleted it, which MLflow remembers."""
    found = client.get_experiment_by_name(_NAME)
    return None if found is None or found.lifecycle_stage == "deleted" else found


def opened(client: "MlflowClient", uri: str, warn: Callable[[str], None]) -> str:
    """The id of the experiment, which is made where there is none; a SQLite file has its artifacts beside it."""
    file = sqlite_file(uri)
    where = None if file is None else (file.parent / _ARTIFACTS).resolve().as_uri()
    found = active(client)
    if found is not None:
        if file is not None and where is not None:
            _move(file, found, where)
        return str(found.experiment_id)
    if (deleted := client.get_experiment_by_name(_NAME)) is not None:
        aside = f"{_NAME}-deleted-{deleted.experiment_id}"
        client.restore_experiment(deleted.experiment_id)  # or it could not be renamed
        client.rename_experiment(deleted.experiment_id, aside)
        client.delete_experiment(deleted.experiment_id)
        warn(f"MLflow's experiment {_NAME} was deleted: it is {aside} now, and this sweep's rows go into a new one")
    return str(client.create_experiment(_NAME, where))


def _move(file: Path, experiment: "Experiment", where: str) -> None:
    """Lead a database that was copied or moved to the artifacts that came with it."""
    before = str(experiment.artifact_location)
    if before == where or not before.startswith("file:") or not before.endswith(f"/{_ARTIFACTS}"):
        return
    with closing(sqlite3.connect(file, timeout=20)) as database, database:
        for table, column in _PLACES.items():
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608  names of our own
                f"WHERE experiment_id = ? AND substr({column} || '/', 1, ?) = ?",
                (where, len(before) + 1, experiment.experiment_id, len(before) + 1, f"{before}/"),
            )
