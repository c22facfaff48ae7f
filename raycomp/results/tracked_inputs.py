# SPDX-License-Identifier: Apache-2.0
"""Inputs of runs in MLflow: the evaluation images as a dataset and the checkpoint as a logged model."""

import json
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from raycomp.config import SweepConfig
from raycomp.results.row import Row

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

_TAG = "raycomp_checkpoint"


class Inputs:
    """Logs the dataset and model of each run. A model is created once per experiment."""

    def __init__(self, client: "MlflowClient", experiment: str, config: SweepConfig) -> None:
        self._client, self._experiment, self._config = client, experiment, config
        self._models: dict[str, str] = {}
        """MLflow's id of a model by its fingerprint."""

    def log(self, run: str, row: Row) -> None:
        """Attach a row's dataset and model to its run; repeating this changes nothing."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        data = self._config.data
        root = None if data.root is None else str(data.root)
        source = json.dumps({"dataset": data.dataset, "root": root, "split": data.eval_split})
        name = f"{data.dataset} {data.eval_split}"
        dataset = Dataset(name=name, digest=row.evalset, source_type="local", source=source)
        inputs = DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])
        self._client.log_inputs(run, [inputs], [LoggedModelInput(self._model(row.checkpoint))])

    def _model(self, fingerprint: str) -> str:
        if fingerprint not in self._models:
            condition = f"tags.{_TAG} = '{fingerprint}'"
            existing = list(self._client.search_logged_models([self._experiment], condition, max_results=1))
            model = existing[0] if existing else self._created(fingerprint)
            self._models[fingerprint] = str(model.model_id)
        return self._models[fingerprint]

    def _created(self, fingerprint: str) -> "LoggedModel":
        model = self._config.model
        files = [file for file in (model.checkpoint, model.elastic) if file]
        name = re.sub(r"[^\w-]+", "_", PurePosixPath(files[-1].rpartition(":")[2]).stem)
        tags, params = {_TAG: fingerprint}, {"files": ", ".join(files)}
        created = self._client.create_logged_model(
            self._experiment, name, tags=tags, params=params, model_type="checkpoint"
        )
        return self._client.finalize_logged_model(created.model_id, "READY")
