"""Fine-tune one recipe on all workers with Ray Train: data-parallel, gone on with after a worker dies."""

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
from raycomp.settings.training import RefineConfig
from raycomp.storage import AnyPath
from raycomp.training_loop import Standing

_POLL = 0.5  # seconds between looks at what the workers report


@dataclass(frozen=True)
class Target:
    """A recipe to fine-tune, and with which seed."""

    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Shared:
    """What all trainings share; context and samples are references into Ray's object store."""

    context: Any
    samples: Any
    config: RefineConfig
    folder: AnyPath
    """Of the sweep; every worker must see it."""
    mark: str
    """What the models are made from; see `SweepContext.mark`."""
    workers: int
    gpu: bool
    max_failures: int


def model_path(shared: Shared, target: Target) -> AnyPath:
    """Where a refined model is kept."""
    return shared.folder / "refined" / f"{target.recipe.id}-seed{target.seed}.safetensors"


def settings_text(config: RefineConfig) -> str:
    """What makes two refined models of a recipe differ, for rows and files."""
    train = config.train
    return f"{train.steps} steps, {train.optimizer}, lr {train.lr:g}, batch {train.batch}, distill {config.distill:g}"


def is_refined(shared: Shared, target: Target) -> bool:
    """Whether the model is there, made by these settings from these weights."""
    path = model_path(shared, target)
    if not path.is_file():
        return False
    with fetched(path) as local:
        return checkpoints.metadata(local).get("refined") == _made(shared)


def refine_one(shared: Shared, target: Target, on_step: Callable[[Standing], None]) -> None:
    """Train a target and write its model; nothing happens where it is there already.

    Raises:
        UserError: for a loss that is not finite, or a training that ended without a model.
    """
    if is_refined(shared, target):
        return
    reports: Queue = Queue(actor_options={"num_cpus": 0})
    resources = {"CPU": 1.0, **({"GPU": 1.0} if shared.gpu else {})}
    problems: list[BaseException] = []
    told = ""
    with tempfile.TemporaryDirectory(prefix="raycomp-train-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"shared": shared, "target": target, "reports": reports},
            torch_config=TorchConfig(backend="nccl" if shared.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=shared.workers, use_gpu=shared.gpu, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=target.recipe.id,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=shared.max_failures),
            ),
        )

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:  # told by the thread that waits
                logger.debug("refining %s", target.recipe.id, exc_info=True)
                problems.append(error)

        thread = Thread(target=fit, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL)
            told = _drain(reports, on_step) or told
    told = _drain(reports, on_step) or told
    reports.shutdown()
    if told:
        raise UserError(told)
    if problems or not is_refined(shared, target):
        what = last_line(problems[0]) if problems else "no model was written"
        raise UserError(f"refining {target.recipe.id} failed: {what}; the same command goes on")


def _drain(reports: Queue, on_step: Callable[[Standing], None]) -> str:
    """Pass on what the workers report; returns the problem they tell of, if any."""
    while True:
        try:
            report = reports.get_nowait()
        except Empty:
            return ""
        if isinstance(report, str):
            return report
        on_step(report)


def _worker(given: dict[str, Any]) -> None:
    """One of the processes that train together."""
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    shared, target, reports = given["shared"], given["target"], given["reports"]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    keep_freed_memory()
    device = get_device()
    prepare_device(device)
    context: SweepContext = ray.get(shared.context)
    samples = None if shared.samples is None else ray.get(shared.samples)
    first = get_context().get_world_rank() == 0

    def report(at: Standing) -> None:
        if first:
            reports.put(at)

    try:
        cpu = torch.device("cpu")
        model = recovered(context, target.recipe, samples, cpu, shared.folder)
        train = shared.config.train.model_copy(update={"seed": target.seed})
        state = shared.folder / "states" / f"refined-{target.recipe.id}-seed{target.seed}.state"
        made = trained_on(context, model, train, shared.config.distill, samples, device, state, report)
        if first:
            checkpoints.save(made, model_path(shared, target), {"refined": _made(shared)})
            state.unlink(missing_ok=True)
    except UserError as error:  # told by every worker that meets it; trying again would meet it again
        reports.put(str(error))


def _made(shared: Shared) -> str:
    return f"{settings_text(shared.config)}; {shared.config.train.model_dump_json(exclude={'seed'})}; {shared.mark}"
