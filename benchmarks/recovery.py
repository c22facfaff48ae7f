# SPDX-License-Identifier: Apache-2.0
"""Compare ways of recovery, and test whether elastic accuracy ranks recipes like fine-tuning does.

    python benchmarks/recovery.py [--recipes 12] [--steps 500] [--modes none,elastic,refine] [--workers 2]

Draws random recipes of the embedded default's space as elastic training does, with another seed. Measures each as cut,
reconstructed, cut from the elastic model, fine-tuned from the cut dense model, and refined (fine-tuned from the
elastic model as `raycomp refine` does), both with the dense model as teacher. All are measured on the full set; each
worker takes one recipe at a time, on one thread. Prints clean / corrupted mIoU, seconds of recovery, and Spearman's
rank correlation with the fine-tuned accuracy.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer

from raycomp.commands.inputs import names
from raycomp.config import SweepConfig, load
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.evaluate.measure import measure
from raycomp.memory import keep_freed_memory
from raycomp.recipe import Recipe
from raycomp.recover import finetuned, recovered
from raycomp.results.query import spearman
from raycomp.settings.training import FinetuneConfig
from raycomp.space import Space
from raycomp.training_loop import Preloaded, preloaded

ROOT = Path(__file__).resolve().parents[1]
MODES = ("none", "reconstruct", "elastic", "finetune", "refine")
TRAINED = ("finetune", "refine")
SEED = 1_000_000  # differs from those of elastic training, which are drawn at random below 2^31


@dataclass
class _Worker:
    """State that a process keeps between recipes."""

    contexts: dict[str, SweepContext]
    grid: Space
    samples: Preloaded | None
    steps: int


_worker: _Worker


def main(
    recipes: Annotated[int, typer.Option()] = 12,
    steps: Annotated[int, typer.Option(help="Steps of fine-tuning.")] = 500,
    space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml",
    modes: Annotated[str, typer.Option(help=f"Ways of recovery: {', '.join(MODES)}.")] = ",".join(MODES),
    workers: Annotated[int, typer.Option()] = 2,
) -> None:
    config, chosen = load(space), names("--modes", modes, MODES)
    prepare_context(config, print)  # evaluation images and saliencies, once for all workers
    print(f"{'recipe':14}{'of dense':>9}" + "".join(f"{mode:>22}" for mode in chosen), flush=True)
    results: dict[str, list[tuple[float, float]]] = {mode: [] for mode in chosen}
    with ProcessPoolExecutor(workers, get_context("spawn"), prepare, (config, steps, chosen)) as pool:
        for line, accuracies in pool.map(measured, range(recipes)):
            print(line, flush=True)
            for mode, value in accuracies.items():
                results[mode].append(value)
    for trained in (mode for mode in chosen if mode in TRAINED):
        for mode in (mode for mode in chosen if mode not in TRAINED):
            cut, tuned = np.array(results[mode]), np.array(results[trained])
            rho = [spearman(cut[:, i].tolist(), tuned[:, i].tolist()) for i in range(2)]
            print(f"Spearman of {mode} and {trained}, {steps} steps: {rho[0]:.3f} clean, {rho[1]:.3f} corrupted")


def configured(config: SweepConfig, mode: str, steps: int) -> SweepConfig:
    """Return the configuration of a way of recovery; refining begins like elastic."""
    recovery = {"mode": "elastic" if mode == "refine" else mode, "lr": config.refine.train.lr}
    return config.changed("recovery", **recovery, steps=steps if mode == "finetune" else 0)


def prepare(config: SweepConfig, steps: int, modes: list[str]) -> None:
    """Set up a worker."""
    global _worker
    torch.set_num_threads(1)
    keep_freed_memory()
    contexts = {mode: prepare_context(configured(config, mode, steps), lambda _: None) for mode in modes}
    shape = contexts[modes[0]].shape
    grid = Space.of(config, shape)
    _worker = _Worker(contexts, grid, preloaded(config, steps, lambda _: None), steps)


def measured(index: int) -> tuple[str, dict[str, tuple[float, float]]]:
    """Measure a random recipe in every way of recovery: a line of text, and clean and corrupted mIoU by way."""
    grid, contexts = _worker.grid, _worker.contexts
    lowest = next(iter(contexts.values())).config.elastic.least * grid.gflops({})
    recipe = grid.recipe(grid.draw(np.random.default_rng(SEED + index), lowest))
    line = f"{recipe.id:14}{grid.gflops(grid.params(recipe)) / grid.gflops({}):9.1%}"
    result = {}
    with TemporaryDirectory() as scratch:
        for mode, context in contexts.items():
            clean, corrupted, seconds = accuracy(context, mode, recipe, Path(scratch))
            result[mode] = clean, corrupted
            line += f"{100 * clean:8.2f} /{100 * corrupted:6.2f}{seconds:4.0f} s"
    return line, result


def accuracy(context: SweepContext, mode: str, recipe: Recipe, scratch: Path) -> tuple[float, float, float]:
    """Return the clean and corrupted mIoU of a recovered recipe, and the seconds of the recovery."""
    device, samples, started = default_device(), _worker.samples, time.perf_counter()
    model = recovered(context, recipe, samples, device, scratch)
    if mode == "refine":
        settings = FinetuneConfig(steps=_worker.steps, lr=context.config.refine.train.lr, distill=1.0)
        model = finetuned(context, model, settings, 0, samples, device, scratch / "refine.state")
    seconds = time.perf_counter() - started
    result = measure(model, context.evalset, "full", context.config.evaluation, context.config.data, device)
    return result.clean_miou, float(np.nanmean(result.corrupted)), seconds


if __name__ == "__main__":
    typer.run(main)
