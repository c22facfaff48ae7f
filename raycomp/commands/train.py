# SPDX-License-Identifier: Apache-2.0
"""`raycomp train`: train a dense model, an elastic one, or CTS's policy network. torch is imported late."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raycomp import config as configs
from raycomp.commands.inputs import DataFolder, SpaceFile, check_suffix, check_writable, device_of
from raycomp.errors import UserError
from raycomp.files import check_outputs
from raycomp.memory import keep_freed_memory
from raycomp.policies import check_superpatches
from raycomp.settings.training import TrainConfig
from raycomp.shape import ModelShape

if TYPE_CHECKING:
    from raycomp.models.policy import Policy
    from raycomp.models.segmenter import Segmenter
    from raycomp.trainers.job import TrainedNetwork, TrainingJob
    from raycomp.training_loop import TrainingProgress

    _Trained = TrainedNetwork[Policy] | TrainedNetwork[Segmenter]

_Kind = Literal["train", "elastic", "policy"]
"""The kind of network, by the section of its settings; `train` is the dense model."""
_DEVICE_DEFAULT = "cuda where torch sees a GPU, else cpu"


def train_command(
    space: SpaceFile,
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors), with its card beside it.")],
    policy: Annotated[bool, typer.Option("--policy", help="Train the policy network of CTS.")] = False,
    elastic: Annotated[bool, typer.Option("--elastic", help="Train an elastic model from model.checkpoint.")] = False,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of the file's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Maximum learning rate, instead of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the file's.")] = None,
    start: Annotated[Path | None, typer.Option(help="Checkpoint (or .state) of the same shape to start from.")] = None,
    data: DataFolder = None,
    backbone: Annotated[Path | None, typer.Option(help="File with ImageNet weights, instead of a download.")] = None,
    half: Annotated[bool, typer.Option(help="Store float16 weights.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.", show_default=_DEVICE_DEFAULT)] = None,
) -> None:
    """Train a dense Segmenter; with --elastic a model for all recipes of the space, with --policy CTS's network."""
    if policy and elastic:
        raise UserError("--policy and --elastic: choose one")
    check_suffix("--out", out, ".safetensors")
    kind: _Kind = "policy" if policy else "elastic" if elastic else "train"
    sweep = configs.load(space).changed("data", root=data).changed("model", backbone_file=backbone)
    sweep, settings = _configured(sweep, kind, {"steps": steps, "lr": lr, "seed": seed})
    shape = _shape(space, sweep, settings, policy)
    check_writable("--out", out)
    from raycomp.models import checkpoints

    if elastic and start is None:
        start = checkpoints.locate(sweep.model.checkpoint)
    state = out.with_suffix(checkpoints.STATE)
    check_outputs(f"--out {out}", [out, out.with_suffix(".md"), state], [space, start, sweep.model.backbone_file])
    job = _job(sweep, settings, shape, state, device)
    _save(job, _trained(job, kind, start, half), out, start, half)
    state.unlink(missing_ok=True)


def _configured(
    sweep: configs.SweepConfig, kind: _Kind, options: dict[str, Any]
) -> tuple[configs.SweepConfig, TrainConfig]:
    """Return the settings with the given options, and the section of the training."""
    if kind == "train":
        sweep = sweep.changed("train", **options)
        return sweep, sweep.train
    sweep = sweep.changed(kind, train=options)
    return sweep, sweep.policy.train if kind == "policy" else sweep.elastic.train


def _shape(space: Path, sweep: configs.SweepConfig, settings: TrainConfig, policy: bool) -> ModelShape:
    """Return the dimensions to train; the superpatches of a policy must tile its input."""
    shape = sweep.model.shape
    if shape is None:
        raise UserError(f"{space}: field 'model.shape' is missing: training needs it")
    if policy:
        check_superpatches("policy.train.crop", settings.crop or shape.image, shape.patch)
        check_superpatches("data.window", sweep.data.window_for(shape), shape.patch)
    return shape


def _job(
    sweep: configs.SweepConfig, settings: TrainConfig, shape: ModelShape, state: Path, device: str | None
) -> "TrainingJob":
    """Open the data and set up the device."""
    import torch

    from raycomp.data.datasets import open_split
    from raycomp.data.labelled import absent_in
    from raycomp.data.samples import Samples
    from raycomp.data.streetscenes import StreetScenes
    from raycomp.devices import prepare_device
    from raycomp.trainers.job import TrainingJob
    from raycomp.training_loop import Preloaded

    where = device_of(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    samples: Samples = open_split(sweep.data, sweep.data.train_split, settings.images or 0)
    held_out = open_split(sweep.data, sweep.data.eval_split, settings.eval_images)
    if isinstance(samples, StreetScenes):
        samples = Preloaded(samples)
    if warning := absent_in(held_out, min(len(held_out), settings.eval_images), sweep.data.eval_split):
        _say(warning)
    keep_freed_memory()
    prepare_device(where)
    return TrainingJob(
        sweep=sweep, settings=settings, shape=shape, samples=samples, held_out=held_out, device=where, state=state,
        progress=partial(_progress, settings.steps), say=_say,
    )  # fmt: skip


def _trained(job: "TrainingJob", kind: _Kind, start: Path | None, half: bool) -> "_Trained":
    from raycomp.trainers.dense_model import train_dense
    from raycomp.trainers.elastic_model import train_elastic
    from raycomp.trainers.policy_network import train_policy

    if kind == "policy":
        return train_policy(job)
    if kind == "elastic" and start is not None:
        return train_elastic(job, start, half)
    return train_dense(job, start, half)


def _save(job: "TrainingJob", made: "_Trained", out: Path, start: Path | None, half: bool) -> None:
    """Write the checkpoint and its card, and print its accuracy."""
    from raycomp.models import checkpoints
    from raycomp.models.policy import Policy
    from raycomp.trainers.card import card_fields, write_card

    metadata = card_fields(job, made, start)
    if isinstance(made.network, Policy):
        checkpoints.save_policy(made.network, out, metadata)
    else:
        checkpoints.save(made.network, out, metadata, half)
    write_card(out.with_suffix(".md"), made, metadata)
    _say(f"{out}: {made.summary} on {metadata['eval_data']}, {metadata['minutes']} minutes")


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _progress(steps: int) -> Iterator[Callable[["TrainingProgress"], None]]:
    """Show the progress of a training: a bar in a terminal, occasional lines elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    loss = TextColumn("{task.fields[loss]}")
    every = max(1, steps // 50)
    with Progress(TextColumn("training"), BarColumn(), MofNCompleteColumn(), loss, TimeRemainingColumn()) as bar:
        task = bar.add_task("training", total=steps, loss="")

        def report(at: "TrainingProgress") -> None:
            bar.update(task, completed=at.step, loss=f"loss {at.loss:.3f}")
            if not bar.console.is_terminal and at.step % every == 0:
                _say(f"step {at.step}/{at.steps} loss {at.loss:.4f} lr {at.lr:.2e}, {at.seconds:.2f} s")

        yield report
