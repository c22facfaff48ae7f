# SPDX-License-Identifier: Apache-2.0
"""Compare predicted and measured latency of random recipes.

    python benchmarks/latency.py [--engine onnxruntime] [--batch 16] [--recipes 24] [--precision fp32,int8]

Fits a latency table on one thread, as a sweep with `cost_metric: latency` does, then times complete models of other
recipes of the space, drawn alike, in the same engine and by the same clock. Weights are random.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from raycomp.config import load
from raycomp.context.calibration import default_device
from raycomp.deploy.engines import Engine
from raycomp.deploy.latency_fit import Timing, fitted, timed
from raycomp.deploy.precision_facts import PRECISIONS
from raycomp.memory import keep_freed_memory
from raycomp.recipe import dense
from raycomp.space import Space

ROOT = Path(__file__).resolve().parents[1]
SEED = 2_000_000
LEAST = 0.1  # of the dense GFLOPs


def main(
    space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml",
    engine: Annotated[str, typer.Option(help="torch or onnxruntime.")] = "torch",
    precision: Annotated[str, typer.Option(help="fp32, or fp32,int8 for onnxruntime.")] = "fp32",
    recipes: Annotated[int, typer.Option()] = 24,
    batch: Annotated[int, typer.Option()] = 1,
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    config = load(space)
    shape = config.model.shape
    if shape is None:
        raise typer.BadParameter("the space names no model.shape")
    chosen: Engine = "onnxruntime" if engine == "onnxruntime" else "torch"
    precisions = tuple(name for name in PRECISIONS if name in precision.split(","))
    timing = Timing(batch, default_device(), getattr(torch, config.evaluation.dtype), chosen, precisions)
    grid = Space(shape, config.space, config.data.window_for(shape), policy=config.policy.kind)
    started = time.perf_counter()
    table = fitted(grid, timing)
    print(f"table: {table.about}, in {time.perf_counter() - started:.0f} s")

    full = grid.gflops({})
    drawn = [grid.recipe(grid.draw(np.random.default_rng(SEED + i), LEAST * full)) for i in range(recipes)]
    others = [dense(shape), *drawn]
    seconds = timed(grid, others, timing)
    for name in precisions:
        print(f"{name:14}{'family':>20}{'of dense GFLOPs':>17}{'predicted ms':>14}{'measured':>10}{'ratio':>8}")
        ratios = []
        for number, recipe in enumerate(others):
            guess, truth = table.latency_ms(recipe), 1e3 * seconds[number, name]
            ratios.append(guess / truth)
            share = grid.cost(recipe) / full
            print(f"{recipe.id:14}{recipe.family(shape):>20}{share:17.1%}{guess:14.2f}{truth:10.2f}{ratios[-1]:8.3f}")
        relative = np.array(ratios)
        for what, values in (("times", relative), ("shares of dense", relative / relative[0])):
            off = np.abs(values - 1)[1:]
            print(f"{name}, {what}: median error {np.median(off):.1%}, maximum {off.max():.1%}")


if __name__ == "__main__":
    typer.run(main)
