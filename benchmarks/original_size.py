# SPDX-License-Identifier: Apache-2.0
"""Compare mIoU at the original label size, as in published results, with mIoU at resized labels.

    python benchmarks/original_size.py [--space SPACE.yaml] [--short-side 96]

Measures the dense model and the baselines of a space on its full set both ways, with images resized to a short side.
Prints clean / corrupted mIoU in %, the seconds of each, and the rank correlation of both (Spearman).
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from raycomp.config import load
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.evaluate.measure import measure
from raycomp.memory import keep_freed_memory
from raycomp.recipe import dense
from raycomp.report.compare import rank_text
from raycomp.results.query import spearman
from raycomp.search.baselines import matched_baselines
from raycomp.space import Space

ROOT = Path(__file__).resolve().parents[1]


def main(
    space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml",
    short_side: Annotated[int, typer.Option(help="Pixels.")] = 96,
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    config = load(space).changed("data", short_side=short_side)
    context = prepare_context(config, print)
    grid, device = Space.of(config, context.shape), default_device()
    narrowest = grid.recipe(grid.smallest) if context.elastic is not None else None
    shares, merging = config.search.baselines, grid.merging
    baselines = matched_baselines(context.shape, grid.image, shares, narrowest=narrowest, merging=merging)
    inside = {one.label: one.recipe for one in baselines if not grid.outside(one.recipe)}
    recipes = {"dense": dense(context.shape)} | inside
    print(f"{'':28}{'resized':>16}{'s':>6}{'original':>16}{'s':>6}{'difference':>16}", flush=True)
    pairs = []
    for label, recipe in recipes.items():
        line, pair = f"{label:28}", []
        for at in ("resized", "original"):
            evaluation = config.evaluation.model_copy(update={"at": at})
            result = measure(context.cut(recipe), context.evalset, "full", evaluation, config.data, device)
            pair.append((100 * result.clean_miou, 100 * float(np.nanmean(result.corrupted))))
            line += f"{pair[-1][0]:8.2f} /{pair[-1][1]:6.2f}{result.seconds:6.0f}"
        pairs.append(pair)
        print(f"{line}{pair[1][0] - pair[0][0]:+8.2f} /{pair[1][1] - pair[0][1]:+6.2f}", flush=True)
    both = np.array(pairs)  # (recipes, ways, objectives)
    rho = [rank_text(spearman(both[:, 0, i].tolist(), both[:, 1, i].tolist())) for i in range(2)]
    print(f"rank correlation of resized and original (Spearman): {rho[0]} clean, {rho[1]} corrupted")


if __name__ == "__main__":
    typer.run(main)
