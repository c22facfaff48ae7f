# SPDX-License-Identifier: Apache-2.0
"""Fine-tune one recipe on all workers with Ray Train, data-parallel; the training resumes when a worker dies."""

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty
from threading import Thread
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.queue import Queue

from raycomp.context.sweep_context import SweepContext
from raycomp.devices import prepare_device
from raycomp.errors import UserError, last_line, logger
from raycomp.files import fetched
from raycomp.memory import keep_freed_memory
from raycomp.models import checkpoints
from raycomp.recipe import Recipe
from raycomp.recover import recovered, trained_on
from raycomp.results.row import Row
from raycomp.settings.training import RefineConfig
from raycomp.storage import AnyPath
from raycomp.training_loop import TrainingProgress

_POLL = 0.5  # seconds between reads of the workers' reports


@dataclass(frozen=True)
class Target:
    """A recipe to fine-tune with a seed."""

    row: Row
    """The row of the recipe on the front."""
    seed: int

    @property
    def recipe(self) -> Recipe:
        return self.row.recipe


@dataclass(frozen=True)
class RefineInputs:
    """Inputs shared by all trainings; context and samples are references into Ray's object store."""

    context: Any
    samples: Any
    config: RefineConfig
    folder: AnyPath
    """Folder of the sweep, which every worker must be able to access."""
    fingerprint: str
    """See `SweepContext.fingerprint`."""
    workers: int
    gpu: bool
    max_failures: int


def model_path(inputs: RefineInputs, target: Target) -> AnyPath:
    """Return the path of a refined model."""
    return inputs.folder / "refined" / f"{target.recipe.id}-seed{target.seed}.safetensors"


def settings_text(config: RefineConfig) -> str:
    """Describe the settings of the training, for rows and files."""
    train = config.train
    return f"{train.steps} steps, {train.optimizer}, lr {train.lr:g}, batch {train.batch}, distill {config.distill:g}"


def is_refined(inputs: RefineInputs, target: Target) -> bool:
    """Return whether the model exists and was trained with these settings from these weights."""
    path = model_path(inputs, target)
    if not path.is_file():
        return False
    with fetched(path) as local:
        return checkpoints.metadata(local).get("refined") == _settings_of(inputs)


def refine_one(inputs: RefineInputs, target: Target, on_step: Callable[[TrainingProgress], None]) -> None:
    """Train a target and write its model, unless it exists already.

    Raises:
        UserError: If the loss is not finite, or the training ends without a model.
    """
    if is_refined(inputs, target):
        return
    reports: Queue = Queue(actor_options={"num_cpus": 0})
    errors: list[BaseException] = []
    message = ""
    with tempfile.TemporaryDirectory(prefix="raycomp-train-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"inputs": inputs, "target": target, "reports": reports},
            torch_config=TorchConfig(backend="nccl" if inputs.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=inputs.workers,
                use_gpu=inputs.gpu,
                resources_per_worker={"CPU": 1.0, "GPU": float(inputs.gpu)},
            ),
            run_config=RunConfig(
                name=target.recipe.id,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=inputs.max_failures),
            ),
        )

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:  # reported by the waiting thread
                logger.debug("refining %s", target.recipe.id, exc_info=True)
                errors.append(error)

        thread = Thread(target=fit, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL)
            message = _drain(reports, on_step) or message
    message = _drain(reports, on_step) or message
    reports.shutdown()
    if message:
        raise UserError(message)
    if errors or not is_refined(inputs, target):
        reason = last_line(errors[0]) if errors else "no model was written"
        raise UserError(f"refining {target.recipe.id} failed: {reason}; the same command resumes")


def _drain(reports: Queue, on_step: Callable[[TrainingProgress], None]) -> str:
    """Forward the workers' progress, and return the error they report, if any."""
    while True:
        try:
            report = reports.get_nowait()
        except Empty:
            return ""
        if isinstance(report, str):
            return report
        on_step(report)


def _worker(config: dict[str, Any]) -> None:
    """Train in one process of the group."""
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    inputs, target, reports = config["inputs"], config["target"], config["reports"]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    keep_freed_memory()
    device = get_device()
    prepare_device(device)
    context: SweepContext = ray.get(inputs.context)
    samples = None if inputs.samples is None else ray.get(inputs.samples)
    first = get_context().get_world_rank() == 0
    try:
        model = recovered(context, target.recipe.at("fp32"), samples, torch.device("cpu"), inputs.folder)
        train = inputs.config.train.model_copy(update={"seed": target.seed})
        state = inputs.folder / "states" / f"refined-{target.recipe.id}-seed{target.seed}.state"
        report = reports.put if first else lambda _: None
        trained = trained_on(context, model, train, inputs.config.distill, samples, device, state, report)
        if first:
            trained.recipe = target.recipe  # which may be quantised after the training
            checkpoints.save(trained, model_path(inputs, target), {"refined": _settings_of(inputs)})
            state.unlink(missing_ok=True)
    except UserError as error:  # not raised: a retry would fail again
        reports.put(str(error))


def _settings_of(inputs: RefineInputs) -> str:
    train = inputs.config.train.model_dump_json(exclude={"seed"})
    return f"{settings_text(inputs.config)}; {train}; {inputs.fingerprint}"
