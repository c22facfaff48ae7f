"""What each way of recovery brings, and whether elastic accuracy ranks recipes like fine-tuning each of them.

    python benchmarks/recovery.py [--recipes 12] [--steps 500]

Draws random recipes of the embedded default's space as elastic training does, with another seed, and measures each as
cut, reconstructed, cut from the elastic model, and fine-tuned (with the dense model as teacher) on the full set.
Prints clean / corrupted mIoU, seconds of recovery, and Spearman's rank correlations with the fine-tuned accuracy.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
from scipy.stats import spearmanr

from raycomp.config import load
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


def main(
    recipes: Annotated[int, typer.Option()] = 12,
    steps: Annotated[int, typer.Option(help="Of fine-tuning.")] = 500,
    space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml",
    threads: Annotated[int, typer.Option()] = 2,
) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    config = load(space)
    bases: dict[str, Base] = {}
    for mode in MODES:
        recovery = {"mode": mode, "steps": steps if mode == "finetune" else 0, "lr": config.refine.train.lr}
        bases[mode] = prepare_base(config.changed("recovery", **recovery), print)
    samples = preloaded(config, steps, print)
    grid = Space(bases["none"].shape, config.space, config.data.window_for(bases["none"].shape))
    least = config.elastic.least * grid.gflops({})
    print(f"{'recipe':14}{'of dense':>9}" + "".join(f"{mode:>22}" for mode in MODES))
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    with TemporaryDirectory() as scratch:
        for index in range(recipes):
            recipe = grid.recipe(grid.draw(np.random.default_rng(SEED + index), least))
            share = grid.gflops(grid.params(recipe)) / grid.gflops({})
            line = f"{recipe.id:14}{share:9.1%}"
            for mode, base in bases.items():
                clean, corrupted, seconds = accuracy(base, recipe, samples, Path(scratch))
                found[mode].append((clean, corrupted))
                line += f"{100 * clean:8.2f} /{100 * corrupted:6.2f}{seconds:4.0f} s"
            print(line, flush=True)
    for mode in MODES[:-1]:
        own, tuned = np.array(found[mode]), np.array(found["finetune"])
        rho = [spearmanr(own[:, i], tuned[:, i]).statistic for i in range(2)]
        print(f"{mode} ranks like fine-tuning by {steps} steps: Spearman {rho[0]:.3f} clean, {rho[1]:.3f} corrupted")


def accuracy(base: Base, recipe: Recipe, samples: Preloaded | None, scratch: Path) -> tuple[float, float, float]:
    """Clean and corrupted mIoU of a recovered recipe, and the seconds that recovery took."""
    device, started = default_device(), time.perf_counter()
    model = recovered(base, recipe, samples, device, scratch)
    seconds = time.perf_counter() - started
    result = measure(model, base.evalset, "full", base.config.evaluation, base.config.data, device)
    return result.clean_miou, float(np.mean(result.corrupted)), seconds


if __name__ == "__main__":
    typer.run(main)
