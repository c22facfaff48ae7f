# SPDX-License-Identifier: Apache-2.0
"""Compare the accuracy that NViT's score and the Taylor score keep, as cut and after fine-tuning.

    python benchmarks/saliency.py [--steps 200] [--between 40] [--shares 60,40,27] [--out results/saliency.jsonl]

Prunes in two ways at each share of the GFLOPs: to the widths that one global threshold gives (for NViT's score also
with training between rounds), and to the same uniform widths for both scores, which then only choose the units. Every
model is fine-tuned with the same steps and batches, and measured on the full set. An existing results file is
continued.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from raycomp.benchmark.operating_points import OperatingPoint, built, find_nvit
from raycomp.commands.inputs import numbers
from raycomp.config import load
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.evaluate.measure import measure
from raycomp.flops import gflops
from raycomp.memory import keep_freed_memory
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.recover import finetuned
from raycomp.results.query import UNIFORM_PRUNING
from raycomp.search.baselines import matched_baselines
from raycomp.settings.training import FinetuneConfig
from raycomp.training_loop import preloaded

ROOT = Path(__file__).resolve().parents[1]


def main(
    steps: Annotated[int, typer.Option(help="Steps of fine-tuning after pruning.")] = 200,
    between: Annotated[int, typer.Option(help="Training steps after each round.")] = 40,
    shares: Annotated[str, typer.Option(help="Shares of the dense GFLOPs, in %.")] = "60,40,27",
    space: Annotated[Path, typer.Option()] = ROOT / "search_spaces" / "streetscenes_vit_micro.yaml",
    out: Annotated[Path, typer.Option(help="Results, one JSON line each.")] = Path("results/saliency.jsonl"),
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    config = load(space).changed("recovery", mode="none", steps=0)
    samples = preloaded(config, max(steps, config.nvit.rounds * between), print)
    device, done = default_device(), {}
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_file():
        done = {row["arm"]: row for row in map(json.loads, out.read_text().splitlines())}

    def nvit_widths(context: SweepContext, share: float, trained: int) -> Segmenter:
        training = {**context.config.benchmark.recovery.model_dump(), "steps": trained}
        context = replace(context, config=context.config.changed("nvit", train_between=training))
        target = share * gflops(context.shape, dense(context.shape), config.data.window_for(context.shape))
        return built(context, find_nvit(context, target, device, None, samples))

    def uniform_widths(context: SweepContext, share: float) -> Segmenter:
        baselines = matched_baselines(context.shape, config.data.window_for(context.shape), (share,))
        recipe = next(one.recipe for one in baselines if one.kind == UNIFORM_PRUNING)
        return built(context, OperatingPoint(recipe, 0.0, 0.0, ""))

    def arms(context: SweepContext, criterion: str, share: float) -> Iterator[tuple[str, Callable[[], Segmenter]]]:
        yield f"{criterion}, own widths, {share:.0%}", lambda: nvit_widths(context, share, 0)
        if criterion == "nvit":
            named = f"{criterion}, own widths, {between} steps between, {share:.0%}"
            yield named, lambda: nvit_widths(context, share, between)
        yield f"{criterion}, uniform widths, {share:.0%}", lambda: uniform_widths(context, share)

    print(f"{'clean / corrupted mIoU':44}{'of dense':>9}{'as cut':>16}{f'after {steps} steps':>18}", flush=True)
    for share in numbers("--shares", shares, 1, 100):
        for criterion in ("nvit", "taylor"):
            scored = config.changed("nvit", criterion=criterion)
            context = prepare_context(scored, print, criterion=criterion)
            for arm, make in arms(context, criterion, share / 100):
                if arm not in done:
                    model = make()
                    cut = accuracy(context, model, device)
                    settings = FinetuneConfig(steps=steps, lr=config.benchmark.recovery.lr)
                    tuned = finetuned(context, model, settings, 0, samples, device, None)
                    window = config.data.window_for(context.shape)
                    cost = gflops(context.shape, model.recipe, window) / gflops(
                        context.shape, dense(context.shape), window
                    )
                    done[arm] = {"arm": arm, "share": cost, "cut": cut, "tuned": accuracy(context, tuned, device)}
                    with out.open("a") as file:
                        file.write(json.dumps(done[arm]) + "\n")
                row = done[arm]
                figures = (f"{row[when][0]:8.2f} /{row[when][1]:6.2f}" for when in ("cut", "tuned"))
                print(f"{arm:44}{row['share']:9.1%}" + "".join(figures), flush=True)


def accuracy(context: SweepContext, model: Segmenter, device: torch.device) -> tuple[float, float]:
    """Return the clean and corrupted mIoU of a model on the full set, in %."""
    result = measure(model, context.evalset, "full", context.config.evaluation, context.config.data, device)
    return 100 * result.clean_miou, 100 * float(np.nanmean(result.corrupted))


if __name__ == "__main__":
    typer.run(main)
