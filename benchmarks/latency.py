# SPDX-License-Identifier: Apache-2.0
"""Compare predicted and measured latency of random recipes.

    python benchmarks/latency.py [--engine onnxruntime] [--batch 1,16] [--recipes 24] [--precision fp32,int8]

Times complete models of random recipes of the space on one thread, in turns; fits a latency table to the first 33, as
a sweep with `cost_metric: latency` does; and compares its predictions for the others. Weights are random.
"""

import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from raycomp.config import load
from raycomp.context.calibration import default_device
from raycomp.deploy.engines import Engine
from raycomp.deploy.latency_fit import Sources, Timing, drawn, exports, fitted, timed
from raycomp.deploy.precision_facts import PRECISIONS, Precision
from raycomp.memory import keep_freed_memory
from raycomp.recipe import Recipe
from raycomp.space import Space

ROOT = Path(__file__).resolve().parents[1]
SEED = 2_000_000
LEAST = 0.1  # of the dense GFLOPs
Run = tuple[int, Precision]
"""Number of a recipe, and precision."""


def main(
    space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml",
    engine: Annotated[str, typer.Option(help="torch or onnxruntime.")] = "torch",
    precision: Annotated[str, typer.Option(help="fp32, or fp32,int8 for onnxruntime.")] = "fp32",
    recipes: Annotated[int, typer.Option()] = 24,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,16",
    processes: Annotated[int, typer.Option(help="Processes that export for onnxruntime.")] = 2,
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    config = load(space)
    shape = config.model.shape
    if shape is None:
        raise typer.BadParameter("the space names no model.shape")
    chosen: Engine = "onnxruntime" if engine == "onnxruntime" else "torch"
    precisions = tuple(name for name in PRECISIONS if name in precision.split(","))
    grid = Space(shape, config.space, config.data.window_for(shape), policy=config.policy.kind)
    full = grid.gflops({})
    others = [grid.recipe(grid.draw(np.random.default_rng(SEED + i), LEAST * full)) for i in range(recipes)]
    known = drawn(grid)
    every = [*known, *others]
    sources: list[Sources] = []
    if chosen == "onnxruntime":
        began = time.perf_counter()
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            sources = list(pool.map(partial(exports, grid, precisions=precisions), every))
        print(f"exported {len(sources)} models in {time.perf_counter() - began:.0f} s, by {processes} processes")
    dtype, device = getattr(torch, config.evaluation.dtype), default_device()
    for size in map(int, batch.split(",")):
        timing = Timing(size, device, dtype, chosen, precisions)
        began = time.perf_counter()
        seconds = timed(grid, every, timing, sources=sources)
        print(f"\ntimed {len(every)} models in {time.perf_counter() - began:.0f} s")
        table = fitted(grid, timing, partial(recorded, seconds), sources=sources[: len(known)])
        print(f"table: {table.about}", flush=True)
        for name in precisions:
            numbers = [0, *range(len(known), len(every))]
            measured = np.array([1e3 * seconds[number, name] for number in numbers])
            recipes_of = [every[number].at("int8" if name == "int8" else "fp32") for number in numbers]
            report(grid, name, recipes_of, np.array([table.latency_ms(one) for one in recipes_of]), measured)


def recorded(seconds: Mapping[Run, float], runs: Mapping[Run, object]) -> dict[Run, float]:
    """In place of a clock: return what was timed before, in one run with all other models."""
    return {run: seconds[run] for run in runs}


def report(grid: Space, name: str, recipes: list[Recipe], predicted: np.ndarray, measured: np.ndarray) -> None:
    """Print times of recipes, of which the first is dense, and errors of the others."""
    print(f"{name:14}{'family':>20}{'of dense GFLOPs':>17}{'predicted ms':>14}{'measured':>10}{'ratio':>8}")
    ratios = predicted / measured
    for recipe, guess, truth, ratio in zip(recipes, predicted, measured, ratios, strict=True):
        share = grid.cost(recipe) / grid.gflops({})
        print(f"{recipe.id:14}{recipe.family(grid.shape):>20}{share:17.1%}{guess:14.2f}{truth:10.2f}{ratio:8.3f}")
    for what, values in (("times", ratios), ("shares of dense", ratios / ratios[0])):
        off = np.abs(values - 1)[1:]
        print(f"{name}, {what}: median error {np.median(off):.1%}, maximum {off.max():.1%}", flush=True)


if __name__ == "__main__":
    typer.run(main)
