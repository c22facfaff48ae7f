# SPDX-License-Identifier: Apache-2.0
"""Measure the best recipes of sweeps, at shares of the dense cost, on images that no search used.

    python benchmarks/held_out.py NAME ... [--shares 50,27] [--images 500] [--refined]

Sweeps of one search space that differ in their seeds are repeats of one experiment. The full stage of each sweep
chooses the best recipe at a share (clean plus corrupted mIoU), which is then measured on the test split with all
16 x 5 corruptions. Prints the clean / corrupted mIoU of each recipe, and the mean and standard deviation over sweeps
of the difference to the dense model, in points. With --refined, it measures the models that `raycomp refine` made of
each recipe; every seed is a repeat.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from raycomp.commands.inputs import numbers
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.deploy.model import load
from raycomp.evaluate.measure import measure
from raycomp.memory import keep_freed_memory
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe
from raycomp.recover import recovered
from raycomp.results.query import at_budgets
from raycomp.results.row import Row
from raycomp.results.store import Store

Accuracy = tuple[float, float]


def main(
    sweeps: Annotated[list[str], typer.Argument(help="Names of finished sweeps.")],
    shares: Annotated[str, typer.Option()] = "50,27",
    images: Annotated[int, typer.Option(help="Clean images; every corrupted variant has 16.")] = 500,
    refined: Annotated[bool, typer.Option("--refined")] = False,
    results: Annotated[Path, typer.Option()] = Path("results"),
    threads: Annotated[int, typer.Option()] = 2,
) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    stores = [Store(results / name) for name in sweeps]
    config = stores[0].config()
    held_out = {"clean": images, "corrupted": 16}
    config = config.changed("data", eval_split="test").changed("evaluation", full=held_out)
    context = prepare_context(config, print)
    dense = accuracy(context, context.model)
    print(f"dense: {shown(dense)} on {context.evalset.fingerprint}")
    if context.elastic is not None:
        print(f"elastic at full width: {difference(accuracy(context, context.elastic_model), dense)}")
    for share in (percent / 100 for percent in numbers("--shares", shares, 1, 100)):
        measured: list[Accuracy] = []
        for store in stores:
            best = at_budgets(store.rows(), (share,), store.config().search.budget)[0].best
            if best is None:
                print(f"{store.folder.name}: no recipe at {share:.0%}")
                continue
            for name, model in models(context, best, results / store.folder.name, refined):
                measured.append(accuracy(context, model))
                where = f"{store.folder.name} {name} {best.cost_share:.1%}"
                print(f"  {where}: {shown(measured[-1])}, {difference(measured[-1], dense)}", flush=True)
        if measured:
            gaps = 100 * (np.array(measured) - dense)
            spread = gaps.std(axis=0, ddof=1) if len(gaps) > 1 else np.zeros(2)
            mean = gaps.mean(axis=0)
            print(
                f"at {share:.0%}: {mean[0]:+.2f} +- {spread[0]:.2f} clean, {mean[1]:+.2f} +- {spread[1]:.2f} corrupted,"
                f" points against dense, {len(gaps)} models"
            )


def models(context: SweepContext, best: Row, folder: Path, refined: bool) -> list[tuple[str, Segmenter]]:
    """Return the models of a recipe by name: the one that the sweep measured, or the refined ones."""
    if refined:
        made = sorted((folder / "refined").glob(f"{best.recipe_id}-seed*.safetensors"))
        return [(path.stem, load(path)) for path in made]
    recipe = Recipe.model_validate_json(best.recipe_json)
    return [(best.recipe_id, recovered(context, recipe, None, default_device(), folder))]


def accuracy(context: SweepContext, model: Segmenter) -> Accuracy:
    """Return the clean and corrupted mIoU on the held-out images."""
    result = measure(model, context.evalset, "full", context.config.evaluation, context.config.data, default_device())
    return result.clean_miou, float(np.nanmean(result.corrupted))


def shown(value: Accuracy) -> str:
    return f"{100 * value[0]:.2f} / {100 * value[1]:.2f}"


def difference(value: Accuracy, dense: Accuracy) -> str:
    clean, corrupted = (100 * (a - b) for a, b in zip(value, dense, strict=True))
    return f"{clean:+.2f} / {corrupted:+.2f} against dense"


if __name__ == "__main__":
    typer.run(main)
