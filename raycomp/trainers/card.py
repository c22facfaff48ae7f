"""The card of a trained network: how it was made, on what data, and what it reaches."""

import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from raycomp.models import checkpoints
from raycomp.trainers.job import Made, TrainingJob


def facts(job: TrainingJob, made: Made[nn.Module], start: Path | None) -> dict[str, str]:
    """What the checkpoint's header and the card say of a training; `start` is the checkpoint it went on from."""
    threads = f"{torch.get_num_threads()} threads"
    return {
        "command": _command(),
        "seed": str(job.settings.seed),
        "steps": str(job.settings.steps),
        "batch": str(job.settings.batch),
        "train_data": job.samples.fingerprint,
        "eval_data": f"{job.held_out.fingerprint}, {job.count} images",
        **made.facts,
        "minutes": f"{made.seconds / 60:.0f}",
        "machine": f"{job.device}, {threads}, {platform.machine()}, torch {version('torch')}",
        **({"start": _history(start)} if start is not None else {}),
        "classes": ",".join(job.held_out.classes),
    }


def write_card(path: Path, made: Made[nn.Module], facts: dict[str, str]) -> None:
    """Write the card as Markdown."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if key != "classes")
    parameters = sum(p.numel() for p in made.network.parameters())
    path.write_text(
        f"# {path.stem}\n\n{made.title}, {parameters:,} parameters, written by `raycomp train`.\n\n"
        f"| | |\n|---|---|\n{rows}\n\n{made.table}\n",
        encoding="utf-8",
    )


def _command() -> str:
    """The command line of this process, without the folder of an installed `raycomp`."""
    program, *options = sys.argv
    name = Path(program).name
    return shlex.join(["raycomp", *options] if name == "raycomp" else ["python", program, *options])


def _history(start: Path) -> str:
    """How the checkpoint that a training goes on from was made, from the beginning."""
    before = checkpoints.metadata(start)
    result = f"mIoU {before.get('miou', 'unknown')}, {before.get('minutes', '?')} minutes"
    earlier = f"{before['start']}; then " if "start" in before else ""
    return f"{earlier}{before.get('command', start.name)} ({result})"
