# SPDX-License-Identifier: Apache-2.0
"""A fresh MLflow database without the seconds that its migrations take."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from mlflow import MlflowClient

from raycomp.results.tracking import default_uri


@cache
def _fresh() -> Path:
    folder = Path(mkdtemp(prefix="raycomp-tests-"))
    MlflowClient(default_uri(str(folder))).search_experiments()
    return folder / "mlflow.db"


def fresh_database(results: Path) -> None:
    """Put one into a folder of results."""
    results.mkdir(parents=True, exist_ok=True)
    shutil.copy(_fresh(), results / "mlflow.db")
