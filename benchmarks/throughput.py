# SPDX-License-Identifier: Apache-2.0
"""Compare the trials per minute of a straightforward loop and of a sweep's worker.

    python benchmarks/throughput.py [--trials 6] [--device cuda] [--against FOLDER]

The straightforward loop reads the checkpoint, draws the images and corrupts them again in every trial, and measures one
variant after the other in float32. Both measure the search stage of the same random recipes on one thread, take turns,
and must get the same accuracy. The worker also measures effective rank and latency. `--against` names another working
tree of the project, whose worker takes turns with them.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer

from raycomp.compress.apply import compress
from raycomp.context.sweep_context import SweepContext
from raycomp.data.corruptions import VARIANTS, corrupt
from raycomp.data.datasets import open_split
from raycomp.data.samples import NORMALIZATIONS
from raycomp.evaluate.confusions import confusion
from raycomp.evaluate.miou import miou
from raycomp.models import checkpoints
from raycomp.recipe import Recipe
from raycomp.space import Space
from throughput_worker import measured, prepared

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32


def main(
    trials: Annotated[int, typer.Option()] = 6,
    device: Annotated[str, typer.Option()] = "cpu",
    against: Annotated[Path | None, typer.Option(help="Another working tree.")] = None,
) -> None:
    context, place = prepared(), torch.device(device)
    grid = Space.of(context.config, context.shape)
    rng = np.random.default_rng(0)
    recipes = [
        grid.recipe(grid.project(grid.draw(rng, 0.2 * grid.gflops({})), 0.6 * grid.gflops({}))) for _ in range(trials)
    ]
    measured(context, recipes[0], place)  # the one-time work of a worker
    other = None if against is None else _Other(against, device)
    if other is not None:
        other.measured(recipes[0])
    straight: list[dict[str, float]] = []
    ours: list[float] = []
    theirs: list[float] = []
    print(f"{'recipe':14}{'straight s':>12}{'worker s':>10}{'other s':>10}{'clean mIoU':>12}")
    for recipe in recipes:
        clean, parts = _straight(context, recipe, place)
        straight.append(parts)
        seconds, worker_clean = measured(context, recipe, place)
        ours.append(seconds)
        assert abs(clean - worker_clean) < 1e-3
        text = f"{recipe.id:14}{sum(parts.values()):12.2f}{seconds:10.2f}"
        if other is not None:
            seconds, clean = other.measured(recipe)
            theirs.append(seconds)
            assert abs(clean - worker_clean) < 1e-3
        print(f"{text}{theirs[-1] if theirs else float('nan'):10.2f}{worker_clean:12.6f}", flush=True)
    each = {part: sum(one[part] for one in straight) / trials for part in straight[0]}
    mean = sum(ours) / trials
    print(
        "straightforward loop, seconds per trial: "
        + ", ".join(f"{part} {seconds:.2f}" for part, seconds in each.items())
    )
    print(f"worker, seconds per trial: {mean:.2f}, or {60 / mean:.0f} trials per minute and thread")
    print(f"speed-up: {sum(each.values()) / mean:.1f}x; measuring alone: {each['measuring'] / mean:.2f}x")
    if theirs:
        ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
        listed = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"worker of {against}: {sum(theirs) / trials:.2f} s per trial, {median(ratios):.2f}x ours ({listed})")


class _Other:
    """A worker that runs the package of another working tree."""

    def __init__(self, tree: Path, device: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, ROOT / "benchmarks" / "throughput_worker.py", device],
            env={**os.environ, "PYTHONPATH": str(tree.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measured(self, recipe: Recipe) -> tuple[float, float]:
        """Return the seconds and the clean mIoU of a trial; the process ends with this one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(recipe.canonical_json(), file=self._process.stdin, flush=True)
        seconds, clean = self._process.stdout.readline().split()
        return float(seconds), float(clean)


def _straight(context: SweepContext, recipe: Recipe, device: torch.device) -> tuple[float, dict[str, float]]:
    """Return the clean mIoU and the seconds of each part."""
    config, seconds = context.config, {}
    began = time.perf_counter()
    assert config.model.elastic is not None
    elastic = checkpoints.load(checkpoints.locate(config.model.elastic), context.shape)
    model = compress(elastic, recipe, None).eval().to(device)
    seconds["model"] = time.perf_counter() - began

    began, stage = time.perf_counter(), config.evaluation.search
    samples = open_split(config.data, config.data.eval_split, config.evaluation.full.clean)
    scenes = [samples[index] for index in range(len(samples))]
    seconds["images"] = time.perf_counter() - began

    began, full = time.perf_counter(), config.evaluation.full.corrupted
    variants = [scenes[: stage.clean]]
    for number, (kind, severity) in enumerate(VARIANTS):
        indices = [(number * full + offset) % len(scenes) for offset in range(stage.corrupted)]
        seed = config.evaluation.seed * 1_000_003
        variants.append([(corrupt(scenes[i][0], kind, severity, seed + i), scenes[i][1]) for i in indices])
    seconds["corruptions"] = time.perf_counter() - began

    began, values = time.perf_counter(), []
    with torch.no_grad():
        for variant in variants:
            matrix = torch.zeros(context.shape.classes, context.shape.classes, dtype=torch.int64)
            for start in range(0, len(variant), BATCH):
                images = np.stack([image for image, _ in variant[start : start + BATCH]])
                labels = torch.from_numpy(np.stack([label for _, label in variant[start : start + BATCH]]))
                predicted = model(_normalised(images, context.shape.normalization).to(device)).argmax(1).cpu()
                matrix += confusion(labels, predicted, context.shape.classes).sum(0)
            values.append(miou(matrix.numpy()))
    seconds["measuring"] = time.perf_counter() - began
    return values[0], seconds


def _normalised(images: np.ndarray, kind: str) -> torch.Tensor:
    pixels = NORMALIZATIONS[kind]
    return torch.from_numpy(((images / 255 - pixels.mean) / pixels.std).astype(np.float32)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    typer.run(main)
