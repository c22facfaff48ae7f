"""What each way of recovery brings, and whether elastic accuracy ranks recipes like fine-tuning each of them.

    python benchmarks/recovery.py [--recipes 12] [--steps 500] [--workers 2]

Draws random recipes of the embedded default's space as elastic training does, with another seed, and measures each as
cut, reconstructed, cut from the elastic model, and fine-tuned (with the dense model as teacher) on the full set; each
worker takes one recipe at a time, on one thread.
Prints clean / corrupted mIoU, seconds of recovery, and Spearman's rank correlations with the fine-tuned accuracy.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from scipy.stats import spearmanr

from raycomp.config import SweepConfig, load
from raycomp.evaluate.measure import measure
from raycomp.memory import keep_freed_memory
from raycomp.recipe import Recipe
from raycomp.recover import recovered
from raycomp.search.base import Base, default_device, prepare_base
from raycomp.search.space import Space
from raycomp.train import Preloaded, preloaded

ROOT = Path(__file__).resolve().parents[1]
MODES = ("none", "reconstruct", "elastic", "finetune")
SEED = 1_000_000  # apart from those of elastic training, which are drawn below 2^31 at random


@dataclass
class _Worker:
    """What a process keeps between recipes."""

    bases: dict[str, Base]
    grid: Space
    samples: Preloaded | None


_worker: _Worker


def main(
    recipes: Annotated[int, typer.Option()] = 12,
    steps: Annotated[int, typer.Option(help="Of fine-tuning.")] = 500,
    space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml",
    workers: Annotated[int, typer.Option()] = 2,
) -> None:
    config = load(space)
    for mode, changed in modes(config, steps):  # evaluation images and saliencies, once for all workers
        prepare_base(changed, print if mode == MODES[0] else lambda _: None)
    print(f"{'recipe':14}{'of dense':>9}" + "".join(f"{mode:>22}" for mode in MODES), flush=True)
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    with ProcessPoolExecutor(workers, get_context("spawn"), prepare, (config, steps)) as pool:
        for line, accuracies in pool.map(measured, range(recipes)):
            print(line, flush=True)
            for mode, value in accuracies.items():
                found[mode].append(value)
    for mode in MODES[:-1]:
        own, tuned = np.array(found[mode]), np.array(found["finetune"])
        rho = [spearmanr(own[:, i], tuned[:, i]).statistic for i in range(2)]
        print(f"{mode} ranks like fine-tuning by {steps} steps: Spearman {rho[0]:.3f} clean, {rho[1]:.3f} corrupted")


def modes(config: SweepConfig, steps: int) -> Iterator[tuple[str, SweepConfig]]:
    """The configuration of each way of recovery."""
    for mode in MODES:
        recovery = {"mode": mode, "steps": steps if mode == "finetune" else 0, "lr": config.refine.train.lr}
        yield mode, config.changed("recovery", **recovery)


def prepare(config: SweepConfig, steps: int) -> None:
    """Set up a worker."""
    global _worker
    torch.set_num_threads(1)
    keep_freed_memory()
    bases = {mode: prepare_base(changed, lambda _: None) for mode, changed in modes(config, steps)}
    grid = Space(bases["none"].shape, config.space, config.data.window_for(bases["none"].shape))
    _worker = _Worker(bases, grid, preloaded(config, steps, lambda _: None))


def measured(index: int) -> tuple[str, dict[str, tuple[float, float]]]:
    """A random recipe in every way of recovery: a line, and clean and corrupted mIoU by way."""
    grid, bases = _worker.grid, _worker.bases
    least = bases["none"].config.elastic.least * grid.gflops({})
    recipe = grid.recipe(grid.draw(np.random.default_rng(SEED + index), least))
    line = f"{recipe.id:14}{grid.gflops(grid.params(recipe)) / grid.gflops({}):9.1%}"
    found = {}
    with TemporaryDirectory() as scratch:
        for mode, base in bases.items():
            clean, corrupted, seconds = accuracy(base, recipe, _worker.samples, Path(scratch))
            found[mode] = clean, corrupted
            line += f"{100 * clean:8.2f} /{100 * corrupted:6.2f}{seconds:4.0f} s"
    return line, found


def accuracy(base: Base, recipe: Recipe, samples: Preloaded | None, scratch: Path) -> tuple[float, float, float]:
    """Clean and corrupted mIoU of a recovered recipe, and the seconds that recovery took."""
    device, started = default_device(), time.perf_counter()
    model = recovered(base, recipe, samples, device, scratch)
    seconds = time.perf_counter() - started
    result = measure(model, base.evalset, "full", base.config.evaluation, base.config.data, device)
    return result.clean_miou, float(np.mean(result.corrupted)), seconds


if __name__ == "__main__":
    typer.run(main)
