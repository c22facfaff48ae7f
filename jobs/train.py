"""Train the dense model of a search space, an elastic one from it, or CTS's policy; write checkpoint and card.

    python jobs/train.py --space search_spaces/streetscenes_vit_micro.yaml --out model.safetensors
    python jobs/train.py --space search_spaces/streetscenes_vit_micro.yaml --out elastic.safetensors --elastic
    python jobs/train.py --space search_spaces/streetscenes_vit_micro.yaml --out policy.safetensors --policy

An interrupted training goes on with the same command.
"""

import os
import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raycomp import config as configs
from raycomp.cli import guarded
from raycomp.commands.inputs import check_suffix, device_of
from raycomp.compress.apply import compress
from raycomp.compress.elastic import ordered
from raycomp.data.datasets import open_split
from raycomp.data.labelled import absent_in
from raycomp.data.resize import at_least, centre, resized_image
from raycomp.data.samples import NORMALIZATIONS, Samples
from raycomp.data.streetscenes import StreetScenes
from raycomp.devices import prepare_device
from raycomp.errors import UserError
from raycomp.evaluate.confusions import confusion
from raycomp.evaluate.labels import labels_at
from raycomp.evaluate.miou import class_iou, normalised, sliding_logits
from raycomp.evaluate.sharing import precision
from raycomp.files import check_outputs
from raycomp.losses import Loss, nested, pixel_loss, policy_loss
from raycomp.memory import keep_freed_memory
from raycomp.models import checkpoints
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter, init_weights
from raycomp.policies import check_superpatches
from raycomp.recipe import Recipe, dense
from raycomp.search.base import score
from raycomp.search.known import known
from raycomp.search.space import Space
from raycomp.sections import TrainConfig
from raycomp.shape import ModelShape
from raycomp.train import Preloaded, Standing, Trained, train


def main(
    space: Annotated[Path, typer.Option(help="Search space file.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors); the card lands beside it.")],
    policy: Annotated[bool, typer.Option("--policy", help="Train the policy network of CTS instead.")] = False,
    elastic: Annotated[bool, typer.Option("--elastic", help="Train model.checkpoint for every recipe.")] = False,
    steps: Annotated[int | None, typer.Option(help="Steps, in place of the file's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate, in place of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, in place of the file's.")] = None,
    start: Annotated[Path | None, typer.Option(help="Checkpoint (or .state) of the same shape to go on from.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data set, in place of the file's.")] = None,
    backbone: Annotated[Path | None, typer.Option(help="File with ImageNet weights, in place of a download.")] = None,
    half: Annotated[bool, typer.Option(help="Store float16 weights.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Train a dense Segmenter, with --elastic one for all recipes of the space, with --policy CTS's network."""
    if policy and elastic:
        raise UserError("--policy and --elastic: choose one")
    check_suffix("--out", out, ".safetensors")
    sweep = configs.load(space).changed("data", root=data).changed("model", backbone_file=backbone)
    given = {name: value for name, value in (("steps", steps), ("lr", lr), ("seed", seed)) if value is not None}
    if policy:
        sweep = sweep.changed("policy", train={**sweep.policy.train.model_dump(), **given})
    elif elastic:
        sweep = sweep.changed("elastic", train={**sweep.elastic.train.model_dump(), **given})
    else:
        sweep = sweep.changed("train", **given)
    settings = sweep.policy.train if policy else sweep.elastic.train if elastic else sweep.train
    shape = sweep.model.shape
    if shape is None:
        raise UserError(f"{space}: field 'model.shape' is missing: training needs the dimensions")
    if policy:
        check_superpatches("policy.train.crop", settings.crop or shape.image, shape.patch)
        check_superpatches("data.window", sweep.data.window_for(shape), shape.patch)
    if not os.access(out.parent if out.parent.is_dir() else Path(), os.W_OK):
        raise UserError(f"--out {out}: the folder is not writable")
    if elastic:
        start = checkpoints.locate(sweep.model.checkpoint) if start is None else start
    card_file, state = out.with_suffix(".md"), out.with_suffix(checkpoints.STATE)
    check_outputs(f"--out {out}", [out, card_file, state], [space, start, sweep.model.backbone_file])
    samples = open_split(sweep.data, sweep.data.train_split, settings.images or 0)
    held_out = open_split(sweep.data, sweep.data.eval_split, settings.eval_images)
    if isinstance(samples, StreetScenes):
        samples = Preloaded(samples)
    if warning := absent_in(held_out, min(len(held_out), settings.eval_images), sweep.data.eval_split):
        print(warning, flush=True)
    keep_freed_memory()
    prepare_device(device_of(device))
    job = _Job(sweep, settings, shape, samples, held_out, device_of(device), state)
    if policy:
        made = _train_policy(job)
    elif elastic and start is not None:
        made = _train_elastic(job, start, half)
    else:
        made = _train_model(job, start, half)
    minutes = made.seconds / 60
    card = {
        "command": shlex.join(["python", *sys.argv]),
        "seed": str(settings.seed),
        "steps": str(settings.steps),
        "batch": str(settings.batch),
        "train_data": samples.fingerprint,
        "eval_data": f"{held_out.fingerprint}, {job.count} images",
        **made.facts,
        "minutes": f"{minutes:.0f}",
        "machine": f"{device}, {torch.get_num_threads()} threads, {platform.machine()}, torch {version('torch')}",
        **({"start": _history(start)} if start is not None else {}),
        "classes": ",".join(held_out.classes),
    }
    if isinstance(made.network, Policy):
        checkpoints.save_policy(made.network, out, card)
    else:
        checkpoints.save(made.network, out, card, half)
    job.state.unlink(missing_ok=True)
    facts = "\n".join(f"| {key} | {value} |" for key, value in card.items() if key != "classes")
    parameters = sum(p.numel() for p in made.network.parameters())
    card_file.write_text(
        f"# {out.stem}\n\n{made.title}, {parameters:,} parameters, written by `jobs/train.py`.\n\n"
        f"| | |\n|---|---|\n{facts}\n\n{made.table}\n",
        encoding="utf-8",
    )
    print(f"{out}: {made.summary} on {card['eval_data']}, {minutes:.0f} minutes")


@dataclass(frozen=True)
class _Job:
    """What both kinds of training need."""

    sweep: configs.SweepConfig
    settings: TrainConfig
    shape: ModelShape
    samples: Samples
    held_out: Samples
    device: torch.device
    state: Path

    @property
    def count(self) -> int:
        """Held-out images that are measured."""
        return min(len(self.held_out), self.settings.eval_images)


@dataclass(frozen=True)
class _Made:
    """A trained network and what its card says of it."""

    network: Segmenter | Policy
    title: str
    facts: dict[str, str]
    table: str
    summary: str
    seconds: float
    """Of training."""


def _train_model(job: _Job, start: Path | None, half: bool) -> _Made:
    model = Segmenter(job.shape, dense(job.shape))
    model.regularise(job.settings.drop_path, job.settings.decoder_dropout)
    init_weights(model, torch.Generator().manual_seed(job.settings.seed))
    if start is not None:
        model.load_state_dict(checkpoints.load(start, job.shape).state_dict())
    elif job.sweep.model.backbone or job.sweep.model.backbone_file:
        checkpoints.load_backbone(model, job.sweep.model.backbone, job.sweep.model.backbone_file)
    model, seconds = _trained(job, model, pixel_loss)
    if half:  # what is stored is what is measured
        model = model.half().float()
    ious = _evaluate(model, job)
    lines = (f"| {name} | {iou:.3f} |" for name, iou in zip(job.held_out.classes, ious, strict=True))
    miou = f"{np.nanmean(ious):.4f}"
    table = "\n".join(["| class | IoU |", "|---|---|", *lines])
    return _Made(model, "Segmenter", {"miou": miou}, table, f"mIoU {miou}", seconds)


def _train_elastic(job: _Job, start: Path, half: bool) -> _Made:
    """Order the units of a dense model, and train it over recipes of the space with the model as teacher."""
    settings, sweep, shape = job.sweep.elastic, job.sweep, job.shape
    teacher = checkpoints.load(start, shape).to(job.device)
    print(f"scoring prunable units on {sweep.nvit.images} training images", flush=True)
    model = ordered(teacher, score(teacher, sweep, job.device, sweep.search.criterion))
    model.regularise(job.settings.drop_path, job.settings.decoder_dropout)
    teacher.requires_grad_(False)
    space = Space(shape, sweep.space, sweep.data.window_for(shape))
    least = settings.least * space.gflops({})
    always = [dense(shape), space.recipe(space.narrowest(least))]

    def draw(seed: int) -> list[Recipe]:
        rng = np.random.default_rng(seed)
        return always + [space.recipe(space.draw(rng, least)) for _ in range(settings.recipes)]

    identity = f" {checkpoints.fingerprint(start)} {sweep.space.model_dump_json()} {settings.model_dump_json()}"
    model, seconds = _trained(job, model, nested(teacher, settings.distill, draw), identity)
    if half:
        model = model.half().float()
    shares = tuple(share for share in sweep.search.known if share >= settings.least)
    plain = known(shape, space.image, shares, least=space.recipe(space.smallest))
    inside = [one for one in plain if not space.outside(one.recipe)]
    print(f"measuring full width and {len(inside)} known recipes on {job.count} images", flush=True)
    full = f"{np.nanmean(_evaluate(model, job)):.4f}"
    lines = [f"| full width | 100% | {full} |"]
    for one in inside:
        found = np.nanmean(_evaluate(compress(model, one.recipe, None), job))
        print(f"{one.label}: mIoU {found:.4f}", flush=True)
        lines.append(f"| {one.kind} | {one.share:.0%} | {found:.4f} |")
    facts = {"miou": full, checkpoints.ELASTIC: sweep.space.model_dump_json()}
    table = "\n".join(["| recipe | of the dense GFLOPs | mIoU |", "|---|---|---|", *lines])
    return _Made(model, "Elastic Segmenter", facts, table, f"mIoU {full} at full width", seconds)


def _train_policy(job: _Job) -> _Made:
    settings = job.sweep.policy
    torch.manual_seed(job.settings.seed)
    loss = partial(policy_loss, ignore_border=settings.ignore_border)
    policy, seconds = _trained(job, Policy(settings.kind, job.shape.patch, settings.pretrained), loss)
    shares = (0.25, 0.5, 0.75, 0.9)
    everywhere, among = precision(policy, _crops(job), shares, settings.ignore_border)
    lines = [f"| best {share:.0%} | {value:.3f} |" for share, value in zip(shares, among, strict=True)]
    table = "\n".join(["| superpatches | of one class |", "|---|---|", *lines, f"| all | {everywhere:.3f} |"])
    title = f"Policy network of CTS ({settings.kind}, {2 * job.shape.patch}-pixel superpatches)"
    summary = f"{among[1]:.1%} of the best half of the superpatches are of one class ({everywhere:.1%} of all)"
    return _Made(policy, title, {"precision_at_half": f"{among[1]:.4f}"}, table, summary, seconds)


def _trained(job: _Job, model: Trained, loss: Loss, identity: str = "") -> tuple[Trained, float]:
    """Train, or go on, with a progress bar: the model and the seconds of all its steps."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    steps, seconds, scale = job.settings.steps, 0.0, job.sweep.data.scale
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=steps, loss="")
        every = max(1, steps // 50)

        def report(at: Standing) -> None:
            nonlocal seconds
            seconds = at.seconds
            bar.update(task, completed=at.step, loss=f"loss {at.loss:.3f}")
            if not bar.console.is_terminal and at.step % every == 0:
                print(f"step {at.step}/{at.steps} loss {at.loss:.4f} lr {at.lr:.2e}", flush=True)

        made = train(model, job.shape, job.samples, job.settings, job.device, report, loss, job.state, identity, scale)
    return made, seconds


def _history(start: Path) -> str:
    """How the checkpoint that a training goes on from was made, from the beginning."""
    before = checkpoints.metadata(start)
    result = f"mIoU {before.get('miou', 'unknown')}, {before.get('minutes', '?')} minutes"
    earlier = f"{before['start']}; then " if "start" in before else ""
    return f"{earlier}{before.get('command', start.name)} ({result})"


def _evaluate(model: Segmenter, job: _Job) -> np.ndarray:
    """Per-class IoU on the held-out images, at the size of their files."""
    pixels, classes = NORMALIZATIONS[job.shape.normalization], job.shape.classes
    window = job.sweep.data.window_for(job.shape)
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    with torch.inference_mode():
        for index in range(job.count):
            image, label = job.held_out[index]
            size = (label.shape[0], label.shape[1])
            image = resized_image(image, job.sweep.data.scale.of(size))
            x = normalised(torch.from_numpy(image)[None].to(job.device), pixels.mean, pixels.std, torch.float32)
            logits = sliding_logits(model, x, window, job.sweep.data.stride_for(job.shape))
            matrix += confusion(torch.from_numpy(label)[None], labels_at(logits, size).cpu(), classes)[0]
    return class_iou(matrix.numpy())


def _crops(job: _Job) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The centre of each held-out image, as large as the model's input."""
    pixels, data = NORMALIZATIONS[job.shape.normalization], job.sweep.data
    window = data.window_for(job.shape)
    for index in range(job.count):
        image, label = centre(at_least(job.held_out[index], window, data.scale), window)
        x = normalised(torch.from_numpy(image)[None], pixels.mean, pixels.std, torch.float32)
        yield x.to(job.device), torch.from_numpy(label)[None].to(job.device)


if __name__ == "__main__":
    guarded(main)
