# SPDX-License-Identifier: Apache-2.0
"""Measure what dropping one attention or one MLP costs an elastic model that was never trained for it.

    python benchmarks/dropped.py       # two minutes on one core

Cuts the embedded default's elastic model at full width, with one sublayer gone, and measures it on the images of the
search stage. Prints a Markdown table: points of clean and corrupted mIoU against full width, beside the share of the
GFLOPs saved.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from raycomp.compress.apply import compress
from raycomp.config import load
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.evaluate.robustness import summary
from raycomp.flops import gflops
from raycomp.memory import keep_freed_memory
from raycomp.recipe import Recipe, dense
from raycomp.search.trial import measured_in

ROOT = Path(__file__).resolve().parents[1]
HALVES = {"attention": {"heads": 0, "qk": 0, "v": 0}, "MLP": {"mlp": 0}}


def main(space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml") -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    context = prepare_context(load(space), print)
    whole = dense(context.shape)
    clean, corrupted = accuracy(context, whole)
    print(f"full width: {100 * clean:.2f} / {100 * corrupted:.2f}, clean / corrupted mIoU in %\n")
    print("| block | " + " | ".join(f"{half}: clean / corrupted, points | GFLOPs saved" for half in HALVES) + " |")
    print("|---:|" + "---:|---:|" * len(HALVES))
    for block in range(context.shape.depth):
        cells = []
        for gone in HALVES.values():
            recipe = without(whole, block, gone)
            changes = (
                100 * (now - full) for now, full in zip(accuracy(context, recipe), (clean, corrupted), strict=True)
            )
            saved = 1 - gflops(context.shape, recipe, context.window) / gflops(context.shape, whole, context.window)
            cells += [" / ".join(f"{change:+.2f}" for change in changes), f"{saved:.1%}"]
        print(f"| {block} | " + " | ".join(cells) + " |", flush=True)


def without(recipe: Recipe, block: int, gone: dict[str, int]) -> Recipe:
    """Return the recipe without a sublayer of one block, counted from 0."""
    blocks = list(recipe.blocks)
    blocks[block] = type(blocks[block]).model_validate(blocks[block].model_dump() | gone)
    return recipe.model_copy(update={"blocks": tuple(blocks)})


def accuracy(context: SweepContext, recipe: Recipe) -> tuple[float, float]:
    """Return clean and mean corrupted mIoU of a recipe cut from the elastic model, trained for it or not."""
    device = default_device()
    model = compress(context.placed(context.elastic_model, device), recipe, None)
    result = measured_in(context, model, "search", device)
    return result.clean_miou, summary(result.corrupted, result.clean_miou).mpc


if __name__ == "__main__":
    typer.run(main)
