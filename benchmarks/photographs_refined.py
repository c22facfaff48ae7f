# SPDX-License-Identifier: Apache-2.0
"""Fine-tune searched recipes, uniform ones and the paper's methods alike, and measure them on CamVid's two halves.

    python benchmarks/photographs_refined.py --results camvid --share 0.27 --steps 500
    python benchmarks/photographs.py table --results camvid --refined

It needs the searches and the `raycomp benchmark` of `benchmarks/photographs.py`. Every model, dense included, gets the
same steps, rate, batches and teacher, the dense model. Recipes start from the elastic model, the paper's methods from
the dense one. A model that a search found is measured on the half that the search did not see, all others on both.
Trained models and rows that exist are kept, and an interrupted training goes on.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from photographs import DENSE, FOUND, FULL_WIDTH, HALVES, STAGE, at_share, found, measured_row, refined_store
from raycomp import config as configs
from raycomp.benchmark.conditions import TITLES, Condition
from raycomp.benchmark.operating_points import OperatingPoint, built, find_adaptive, fingerprint_of
from raycomp.commands.inputs import numbers, parts
from raycomp.compress.apply import remerge
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.errors import UserError
from raycomp.memory import keep_freed_memory
from raycomp.merging import METHODS
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.recover import finetuned
from raycomp.results.query import completed, is_uniform_baseline
from raycomp.results.store import Store
from raycomp.search.baselines import matched_baselines
from raycomp.settings.training import FinetuneConfig
from raycomp.space import Space


@dataclass(frozen=True)
class _Case:
    """A model to fine-tune."""

    label: str
    model: Segmenter
    halves: Sequence[str] = HALVES
    """Those it is measured on."""
    seed: int = 0
    """That of the search."""
    target: float | None = None
    """GFLOPs that adaptive merging is matched to on each half, after the fine-tuning; None if it does not adapt."""

    @property
    def slug(self) -> str:
        return f"{self.label} {self.seed} on {' '.join(self.halves)}".replace(" ", "-")


def main(
    results: Annotated[Path, typer.Option(help="Folder of the sweeps.")],
    share: Annotated[float, typer.Option(help="Share of the dense GFLOPs.")],
    steps: Annotated[int, typer.Option()],
    only: Annotated[str, typer.Option(help="Methods, separated by commas: found, CTS, ...; by default all.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds of the searches, separated by commas.")] = "0",
    threads: Annotated[int, typer.Option()] = 2,
) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    configs_of = {half: configs.load(results / f"{half}.yaml") for half in HALVES}
    contexts = {
        half: prepare_context(config, print, with_policy=True, criterion=config.nvit.criterion)
        for half, config in configs_of.items()
    }
    stores = {half: Store(refined_store(results, half)) for half in HALVES}
    for half, store in stores.items():
        store.open(contexts[half].config)
    refine = contexts[HALVES[0]].config.refine
    settings = FinetuneConfig(steps=steps, lr=refine.train.lr, distill=refine.distill)
    for case in _cases(contexts[HALVES[0]], results, share, [int(seed) for seed in numbers("--seeds", seeds, 0, 999)]):
        if only and case.label.removesuffix(at_share("", share)) not in parts(only):
            continue
        done = [
            (row.label, row.seed, row.recovery_steps)
            for half in case.halves
            for row in completed(stores[half].rows(), STAGE)
        ]
        if done.count((case.label, case.seed, steps)) == len(case.halves):
            continue
        model = _trained(contexts[HALVES[0]], case, settings, results / "refined")
        for half in case.halves:
            recipe = model.recipe
            if case.target is not None:  # fine-tuning changes the features, and thus the number of tokens
                recipe = find_adaptive(contexts[half], deepcopy(model), case.target, default_device()).recipe
                remerge(model, recipe)
            row = measured_row(contexts[half], model, recipe, case.label, case.seed)
            row = replace(row, gflops=case.target or row.gflops, recovery="finetune", recovery_steps=steps)
            stores[half].write(row)


def _trained(context: SweepContext, case: _Case, settings: FinetuneConfig, folder: Path) -> Segmenter:
    """Return the fine-tuned model; read it if it exists."""
    path, identity = folder / f"{case.slug}.safetensors", f"{settings.model_dump_json()} {case.model.recipe.id}"
    if path.is_file() and checkpoints.metadata(path).get("refined") == identity:
        return checkpoints.load(path)
    state = folder / f"{case.slug}-{settings.steps}.state"
    model = finetuned(context, case.model, settings, 0, None, default_device(), state)
    checkpoints.save(model, path, {"refined": identity})
    state.unlink(missing_ok=True)
    return model


def _cases(context: SweepContext, results: Path, share: float, seeds: Sequence[int]) -> Iterator[_Case]:
    """Yield all models at a share: found ones, the paper's methods, uniform recipes, and the dense model."""
    config, shape = context.config, context.shape
    for seed in seeds:
        for half, other in zip(HALVES, reversed(HALVES), strict=True):
            for _, recipe in found(results, half, seed, [share]):
                yield _Case(at_share(FOUND, share), context.cut(recipe), [other], seed)
    for method in config.benchmark.methods:
        if (point := _operating_point(context, results, method, share)).reached:
            label = at_share(TITLES[method], share)
            target = point.target if point.recipe.adaptive else None
            yield _Case(label, built(context, point), target=target)
    yield _Case(DENSE, context.model)
    yield _Case(FULL_WIDTH, context.elastic_model)
    space = Space.of(config, shape)
    for name in ("tome", config.space.merge):
        merging = METHODS[name].standard(shape, config.policy.kind)
        for one in matched_baselines(shape, space.image, (share,), space.cost, space.recipe(space.smallest), merging):
            if is_uniform_baseline(one.label) and not space.outside(one.recipe):
                yield _Case(at_share(one.kind, share), context.cut(one.recipe))


def _operating_point(context: SweepContext, results: Path, method: str, share: float) -> OperatingPoint:
    """Return the point that `raycomp benchmark` found for a method."""
    shares = {round(1 / speedup, 6): speedup for speedup in context.config.benchmark.speedups}
    if (speedup := shares.get(round(share, 6))) is None:
        raise UserError(f"--share {share}: choose from {', '.join(f'{one:g}' for one in shares)}")
    condition = Condition(speedup, method)
    folder = results / f"{HALVES[0]}-methods" / "settings"
    point = OperatingPoint.load(folder, condition, fingerprint_of(context, condition))
    if point is None:
        raise UserError(f"{folder}: no operating point of {condition.label}; run raycomp benchmark first")
    return point


if __name__ == "__main__":
    typer.run(main)
