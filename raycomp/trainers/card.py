# SPDX-License-Identifier: Apache-2.0
"""The card of a trained network: how it was made, on what data, and its results."""

import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from raycomp.models import checkpoints
from raycomp.trainers.job import TrainedNetwork, TrainingJob


def card_fields(job: TrainingJob, trained: TrainedNetwork[nn.Module], start: Path | None) -> dict[str, str]:
    """Return the fields of the checkpoint's header and of the card; `start` is the initial checkpoint."""
    threads = f"{torch.get_num_threads()} threads"
    return {
        "command": _command(),
        "seed": str(job.settings.seed),
        "steps": str(job.settings.steps),
        "batch": str(job.settings.batch),
        "train_data": job.samples.fingerprint,
        "eval_data": f"{job.held_out.fingerprint}, {job.count} images",
        **trained.fields,
        "minutes": f"{trained.seconds / 60:.0f}",
        "machine": f"{job.device}, {threads}, {platform.machine()}, torch {version('torch')}",
        **({"start": _history(start)} if start is not None else {}),
        "classes": ",".join(job.held_out.classes),
    }


def write_card(path: Path, trained: TrainedNetwork[nn.Module], fields: dict[str, str]) -> None:
    """Write the card as Markdown."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in fields.items() if key != "classes")
    parameters = sum(p.numel() for p in trained.network.parameters())
    path.write_text(
        f"# {path.stem}\n\n{trained.title}, {parameters:,} parameters, written by `raycomp train`.\n\n"
        f"| | |\n|---|---|\n{rows}\n\n{trained.table}\n",
        encoding="utf-8",
    )


def _command() -> str:
    """Return the command line of this process, without the folder of an installed `raycomp`."""
    program, *options = sys.argv
    name = Path(program).name
    return shlex.join(["raycomp", *options] if name == "raycomp" else ["python", program, *options])


def _history(start: Path) -> str:
    """Describe how the initial checkpoint was made, with the trainings before it."""
    before = checkpoints.metadata(start)
    result = f"mIoU {before.get('miou', 'unknown')}, {before.get('minutes', '?')} minutes"
    earlier = f"{before['start']}; then " if "start" in before else ""
    return f"{earlier}{before.get('command', start.name)} ({result})"
