# SPDX-License-Identifier: Apache-2.0
"""Compare predicted and measured latency of random recipes.

    python benchmarks/latency.py [--space search_spaces/streetscenes_vit_micro.yaml] [--recipes 24] [--batch 1]

Measures the latency table on one thread, as a sweep with `cost_metric: latency` does, then times complete models of
recipes drawn as elastic training draws them. Their weights do not matter. All models take turns, the dense one too.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from raycomp.compress.apply import compress
from raycomp.config import load
from raycomp.context.calibration import default_device
from raycomp.evaluate.latency import median_seconds
from raycomp.evaluate.latency_fit import fitted
from raycomp.evaluate.latency_table import measure_latency
from raycomp.memory import keep_freed_memory
from raycomp.merging import ToMe
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.space import Space

ROOT = Path(__file__).resolve().parents[1]
SEED, ROUNDS, WARM_UP = 2_000_000, 15, 3


def main(
    space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml",
    recipes: Annotated[int, typer.Option()] = 24,
    batch: Annotated[int, typer.Option()] = 1,
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    config, device = load(space), default_device()
    shape, dtype = config.model.shape, getattr(torch, config.evaluation.dtype)
    if shape is None:
        raise typer.BadParameter("the space names no model.shape")
    window = config.data.window_for(shape)
    started = time.perf_counter()
    table = fitted(
        measure_latency(shape, batch, device, dtype, window, ToMe(ratios=(0.5,) * shape.depth)), batch, device, dtype
    )
    print(f"table: {table.setting}, measured in {time.perf_counter() - started:.0f} s")

    grid, full = Space(shape, config.space, window), Segmenter(shape, dense(shape)).eval()
    lowest = config.elastic.least * grid.gflops({})
    drawn = [grid.recipe(grid.draw(np.random.default_rng(SEED + i), lowest)) for i in range(recipes)]
    chosen = [dense(shape), *drawn]
    models = [compress(full, recipe, None).eval().to(device, dtype) for recipe in chosen]
    images = torch.randn(batch, 3, *window, device=device, dtype=dtype)
    with torch.inference_mode():
        runs = {index: lambda model=model: model(images) for index, model in enumerate(models)}
        times = median_seconds(runs, device, ROUNDS, WARM_UP)
    predicted = np.array([table.latency_ms(recipe) for recipe in chosen])
    measured = np.array([1e3 * times[index] for index in range(len(chosen))])
    print(f"{'recipe':14}{'family':>12}{'of dense GFLOPs':>17}{'predicted ms':>14}{'measured':>10}{'ratio':>8}")
    for recipe, guess, truth in zip(chosen, predicted, measured, strict=True):
        share = grid.gflops(grid.params(recipe)) / grid.gflops({})
        print(f"{recipe.id:14}{recipe.family(shape):>12}{share:17.1%}{guess:14.2f}{truth:10.2f}{guess / truth:8.3f}")
    for name, ratios in (
        ("times", predicted / measured),
        ("shares of dense", predicted / measured * measured[0] / predicted[0]),
    ):
        off = np.abs(ratios - 1)[1:]
        print(f"{name}: median error {np.median(off):.1%}, maximum {off.max():.1%}")


if __name__ == "__main__":
    typer.run(main)
