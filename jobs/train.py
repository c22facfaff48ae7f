"""Train the dense model of a search space and write its checkpoint and card.

python jobs/train.py --space search_spaces/streetscenes_vit_micro.yaml --out model.safetensors
"""

import os
import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raycomp import config as configs
from raycomp.cli import guarded
from raycomp.data.open import open_split
from raycomp.data.samples import NORMALIZATIONS
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.evaluate.miou import class_iou, confusion, normalised, sliding_logits
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter, init_weights
from raycomp.recipe import dense
from raycomp.train import Preloaded, train


def main(
    space: Annotated[Path, typer.Option(help="Search space file.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors); the card lands beside it.")],
    steps: Annotated[int | None, typer.Option(help="Steps, in place of the file's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate, in place of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, in place of the file's.")] = None,
    start: Annotated[Path | None, typer.Option(help="Checkpoint of the same shape to go on from.")] = None,
    half: Annotated[bool, typer.Option(help="Store float16 weights.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Train the dense Segmenter of a search space."""
    sweep = configs.load(space).changed("train", steps=steps, lr=lr, seed=seed)
    settings, shape = sweep.train, sweep.model.shape
    if shape is None:
        raise UserError(f"{space}: field 'model.shape' is missing: training needs the dimensions")
    if not os.access(out.parent if out.parent.is_dir() else Path(), os.W_OK):
        raise UserError(f"--out {out}: the folder is not writable")
    samples = open_split(sweep.data, sweep.data.train_split, settings.images or 0)
    held_out = open_split(sweep.data, sweep.data.eval_split, settings.eval_images)
    if isinstance(samples, StreetScenes):
        samples = Preloaded(samples, processes=os.cpu_count() or 1)
    model = Segmenter(shape, dense(shape), settings.drop_path)
    init_weights(model, torch.Generator().manual_seed(settings.seed))
    if start is not None:
        model.load_state_dict(checkpoints.load(start, shape).state_dict())
    elif sweep.model.backbone or sweep.model.backbone_file:
        checkpoints.load_backbone(model, sweep.model.backbone, sweep.model.backbone_file)
    started = time.monotonic()
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=settings.steps, loss="")
        every = max(1, settings.steps // 50)

        def report(state) -> None:  # type: ignore[no-untyped-def]
            bar.update(task, completed=state.step, loss=f"loss {state.loss:.3f}")
            if not bar.console.is_terminal and state.step % every == 0:
                print(f"step {state.step}/{state.steps} loss {state.loss:.4f} lr {state.lr:.2e}", flush=True)

        kept = train(model, samples, settings, torch.device(device), report)
    minutes = (time.monotonic() - started) / 60
    if half:  # what is stored is what is measured
        kept = kept.half().float()
    count = min(len(held_out), settings.eval_images)
    ious = _evaluate(kept, held_out, count, sweep, torch.device(device))
    card = {
        "command": shlex.join(["python", *sys.argv]),
        "seed": str(settings.seed),
        "steps": str(settings.steps),
        "batch": str(settings.batch),
        "train_data": samples.fingerprint,
        "eval_data": f"{held_out.fingerprint}, {count} images",
        "miou": f"{np.nanmean(ious):.4f}",
        "minutes": f"{minutes:.0f}",
        "machine": f"{device}, {torch.get_num_threads()} threads, {platform.machine()}, torch {version('torch')}",
        **({"start": _history(start)} if start is not None else {}),
        "classes": ",".join(held_out.classes),
    }
    checkpoints.save(kept, out, card, half)
    per_class = "\n".join(f"| {name} | {iou:.3f} |" for name, iou in zip(held_out.classes, ious, strict=True))
    facts = "\n".join(f"| {key} | {value} |" for key, value in card.items() if key != "classes")
    parameters = sum(p.numel() for p in kept.parameters())
    out.with_suffix(".md").write_text(
        f"# {out.stem}\n\nSegmenter, {parameters:,} parameters, written by `jobs/train.py`.\n\n"
        f"| | |\n|---|---|\n{facts}\n\n| class | IoU |\n|---|---|\n{per_class}\n"
    )
    print(f"{out}: mIoU {card['miou']} on {card['eval_data']}, {minutes:.0f} minutes")


def _history(start: Path) -> str:
    """How the checkpoint that a training goes on from was made, from the beginning."""
    before = checkpoints.metadata(start) if start.suffix == ".safetensors" else {}
    result = f"mIoU {before.get('miou', 'unknown')}, {before.get('minutes', '?')} minutes"
    earlier = f"{before['start']}; then " if "start" in before else ""
    return f"{earlier}{before.get('command', start.name)} ({result})"


def _evaluate(model: Segmenter, samples, count: int, sweep: configs.SweepConfig, device: torch.device) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Per-class IoU on the first `count` images."""
    pixels, classes = NORMALIZATIONS[model.shape.normalization], model.shape.classes
    window = sweep.data.window or model.shape.image
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    with torch.inference_mode():
        for index in range(count):
            image, label = samples[index]
            x = normalised(torch.from_numpy(image)[None].to(device), pixels.mean, pixels.std, torch.float32)
            logits = sliding_logits(model, x, window, sweep.data.stride or window[0])
            matrix += confusion(torch.from_numpy(label), logits[0].argmax(0).cpu(), classes)
    return class_iou(matrix.numpy())


if __name__ == "__main__":
    guarded(main)
