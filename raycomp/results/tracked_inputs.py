"""What runs in MLflow are of: the evaluation images as its dataset, the checkpoint as its logged model."""

import json
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from raycomp.config import SweepConfig
from raycomp.results.row import Row

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

_MARK = "raycomp_checkpoint"


class Inputs:
    """Tells MLflow the dataset and the model of each run; the model is made in an experiment once."""

    def __init__(self, client: "MlflowClient", experiment: str, config: SweepConfig) -> None:
        self._client, self._experiment, self._config = client, experiment, config
        self._models: dict[str, str] = {}
        """MLflow's id of a model by its fingerprint."""

    def log(self, run: str, row: Row) -> None:
        """Attach what a row was measured with; the second time changes nothing."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        data = self._config.data
        source = {
            "dataset": data.dataset,
            "root": None if data.root is None else str(data.root),
            "split": data.eval_split,
        }
        name = f"{data.dataset} {data.eval_split}"
        dataset = Dataset(name=name, digest=str(row.evalset), source_type="local", source=json.dumps(source))
        tags = [InputTag("mlflow.data.context", "evaluation")]
        self._client.log_inputs(
            run, [DatasetInput(dataset, tags)], [LoggedModelInput(self._model(str(row.checkpoint)))]
        )

    def _model(self, mark: str) -> str:
        if mark not in self._models:
            only = f"tags.{_MARK} = '{mark}'"
            there = self._client.search_logged_models([self._experiment], only, max_results=1)
            self._models[mark] = str((next(iter(there), None) or self._made(mark)).model_id)
        return self._models[mark]

    def _made(self, mark: str) -> "LoggedModel":
        model = self._config.model
        files = [file for file in (model.checkpoint, model.elastic) if file]
        name = re.sub(r"[^\w-]+", "_", PurePosixPath(files[-1].rpartition(":")[2]).stem)
        made = self._client.create_logged_model(
            self._experiment, name, tags={_MARK: mark}, params={"files": ", ".join(files)}, model_type="checkpoint"
        )
        return self._client.finalize_logged_model(made.model_id, "READY")
