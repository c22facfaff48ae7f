# SPDX-License-Identifier: Apache-2.0
"""Compare a search for time with one for GFLOPs, of the same space and on the same images, at equal time.

    raycomp search --cost-metric latency --batch 16 --name time16
    python benchmarks/time_or_flops.py time16 streetscenes_vit_micro [--shares 60,50,40,33,27,22]

At each share of the dense model's time, by the latency table of the first sweep, the best front member of either sweep
within it. All chosen models are then timed in turns, in torch on one thread at the batch size of the first sweep.
"""

from typing import Annotated

import torch
import typer

from raycomp.deploy.latency_fit import Timing, timed
from raycomp.deploy.measured import processor
from raycomp.evaluate.latency_error import TABLE_FILE
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.flops import gflops
from raycomp.memory import keep_freed_memory
from raycomp.objectives import mean_accuracy
from raycomp.recipe import Recipe, dense
from raycomp.results.query import completed
from raycomp.results.row import Row
from raycomp.results.store import Store, sweep_folder
from raycomp.space import Space


def main(
    timed_sweep: Annotated[str, typer.Argument(help="Sweep with cost metric latency.")],
    other: Annotated[str, typer.Argument(help="Sweep with cost metric gflops.")],
    shares: Annotated[str, typer.Option(help="Percent of the dense model's time.")] = "60,50,40,33,27,22",
    results: Annotated[str, typer.Option(help="Folder of the first sweep.")] = "results",
    other_results: Annotated[str, typer.Option(help="Folder of the other one.")] = "results",
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    stores = [Store(sweep_folder(folder, name)) for folder, name in ((results, timed_sweep), (other_results, other))]
    config, table = stores[0].config(), LatencyTable.load(stores[0].folder / TABLE_FILE)
    space = Space(table.shape, config.space, table.image)
    found = {"time": completed(stores[0].rows(), "full"), "GFLOPs": completed(stores[1].rows(), "full")}
    whole = table.latency_ms(dense(table.shape))
    chosen: list[tuple[float, str, Row]] = []
    for share in (float(one) / 100 for one in shares.split(",")):
        for name, rows in found.items():
            within = [row for row in rows if not row.is_dense and table.latency_ms(row.recipe) <= share * whole]
            if within:
                chosen.append((share, name, max(within, key=mean_accuracy)))
    recipes = [dense(table.shape), *(row.recipe for _, _, row in chosen)]
    batch = config.search.latency_batch
    seconds = timed(space, recipes, Timing(batch, torch.device("cpu"), threads=1))
    print(f"{processor()}, one thread, torch {torch.__version__}, batch {batch}; table: {table.about}")
    print(f"dense: {1e3 * seconds[0, 'fp32']:.1f} ms\n")
    print(
        "| time | searched for | recipe | clean | corrupted | time, measured | FLOPs saved | gained / saved |", end=""
    )
    print(" heads | dropped | merging blocks |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for number, (share, name, row) in enumerate(chosen, start=1):
        took = seconds[number, "fp32"] / seconds[0, "fp32"]
        saved = gflops(table.shape, recipes[0]) / gflops(table.shape, row.recipe)
        assert row.clean_miou is not None
        assert row.corrupted_miou is not None
        accuracy = f"{100 * row.clean_miou:.2f} | {100 * row.corrupted_miou:.2f}"
        speed = f"{took:.1%} | {saved:.2f}x | {1 / took / saved:.2f}"
        print(f"| {share:.0%} | {name} | {row.recipe_id} | {accuracy} | {speed} | {shape_of(row.recipe)} |")


def shape_of(recipe: Recipe) -> str:
    """Describe how a recipe compresses: heads in all, dropped sublayers, and blocks that merge."""
    blocks = recipe.blocks
    heads, dropped = sum(b.heads for b in blocks), sum((not b.heads) + (not b.mlp) for b in blocks)
    merging = sum(ratio > 0 for ratio in recipe.ratios) + sum(ratio > 0 for ratio in recipe.further_ratios.values())
    return f"{heads} | {dropped} | {merging}"


if __name__ == "__main__":
    typer.run(main)
