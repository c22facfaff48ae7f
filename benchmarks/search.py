# SPDX-License-Identifier: Apache-2.0
"""Compare how fast samplers find good recipes: hypervolume over trials and over seconds.

    python benchmarks/search.py                                   # the elastic ViT-micro, replayed: 5 minutes
    python benchmarks/search.py --function formula --trials 500 --arms \
        "random,TPE of Optuna,NSGA-II of Optuna,raycomp tpe,raycomp gp"    # 15 minutes

Compares random search, Optuna's default TPE and its NSGA-II with the search of a sweep by each of its samplers. For
the first three, recipes over the budget are rejected before they are measured, and not counted. One trial runs at a
time; a probe counts as a trial in proportion to its images. The hypervolume is over clean mIoU and corrupted mIoU
relative to the dense model, and the share of its GFLOPs from 10 to 60 %; its reference point is no accuracy at 60 %.
With --corner, the reference accuracies are that share of the dense ones. Intervals are 95 % (Student's t over seeds).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import moocore
import numpy as np
import optuna
import typer
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from scipy.stats import t as student

from raycomp import objectives
from raycomp.flops import gflops
from raycomp.recipe import dense
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.search.sampler import distributions
from raycomp.settings.space_and_search import SearchConfig
from raycomp.space import Space
from trial_functions import Elastic, Formula, Trial

BUDGET, CHEAPEST = 0.6, 0.1
MILESTONES = (20, 40, 50, 100, 200, 500)
PLAIN = "TPE of Optuna"
Function = Formula | Elastic


@dataclass(frozen=True)
class Run:
    """The objectives (rows, M) of a search, and the seconds of each measurement and of its proposal."""

    objectives: np.ndarray
    """NaN for probes, which are for learning only."""
    seconds: np.ndarray
    asks: np.ndarray
    spent: np.ndarray
    """Trials spent after each measurement (rows,)."""

    def hypervolumes(self, dense_values: np.ndarray, trials: int, accuracy: float) -> np.ndarray:
        """Return the hypervolume after 1, 2, ... trials (trials,), above a share of the dense accuracies."""
        points = self.objectives / dense_values
        points[:, -1] = (np.maximum(points[:, -1], CHEAPEST) - CHEAPEST) / (BUDGET - CHEAPEST)
        points = objectives.minimised(points)
        corner = objectives.minimised([*(accuracy for _ in objectives.measured()), 1.0])
        volumes = []
        for count in range(1, trials + 1):
            done = points[self.spent <= count + 1e-6]
            volumes.append(moocore.hypervolume(done[np.isfinite(done).all(1)].reshape(-1, len(corner)), ref=corner))
        return np.array(volumes)

    def seconds_at(self, trials: int) -> np.ndarray:
        """Return the seconds spent after 1, 2, ... trials (trials,)."""
        return np.interp(np.arange(1, trials + 1), self.spent, np.cumsum(self.seconds + self.asks))


def plain(make: Callable[[int], BaseSampler], function: Function, seed: int, trials: int) -> Run:
    """Run a plain search with Optuna."""
    study = optuna.create_study(directions=objectives.directions(), sampler=make(seed))
    space = function.space
    budget = BUDGET * space.gflops({})
    grid = distributions(space)
    measured: list[tuple[float, ...]] = []
    clock = time.perf_counter()
    while len(measured) < trials:
        trial = study.ask(grid)
        cost = space.gflops(trial.params)
        if cost > budget:
            study.tell(trial, state=TrialState.FAIL)
            continue
        ask = time.perf_counter() - clock
        answer = function(space.recipe(trial.params))
        study.tell(trial, (answer.clean, answer.corrupted, cost))
        clock = time.perf_counter()
        measured.append((answer.clean, answer.corrupted, cost, answer.seconds, ask, 1.0))
    return _run(measured)


def sweep(sampler: str, function: Function, seed: int, trials: int, baselines: tuple[float, ...] | None = None) -> Run:
    """Run the search of a sweep, baselines first."""
    shares = baselines or function.baselines
    config = SearchConfig(budget=BUDGET, trials=trials, seed=seed, baselines=shares, sampler=sampler)
    proposer = Proposer(function.space, config, [], function.space, function.probe_trials)
    measured: list[tuple[float, ...]] = []
    clock = time.perf_counter()
    while (proposal := proposer.next()) is not None and proposal.stage != "full":
        ask = time.perf_counter() - clock
        answer = function(proposal.recipe, proposal.stage)
        clock, row = time.perf_counter(), row_of(proposal, answer, function.space)
        proposer.tell(row)
        if proposal.origin != "reference":
            accuracies = (np.nan, np.nan) if proposal.stage == "probe" else (answer.clean, answer.corrupted)
            measured.append((*accuracies, row.cost, answer.seconds, ask, proposer.trials_of(proposal.stage)))
    proposer.close()
    return _run(measured)


def row_of(proposal: Proposal, answer: Trial, space: Space) -> Row:
    """Return the row of a measurement."""
    recipe, first = proposal.recipe, answer.first
    cost = gflops(space.shape, recipe, space.image)
    return Row(
        stage=proposal.stage,
        status="complete",
        origin=proposal.origin,
        label=proposal.label,
        recipe_id=recipe.id,
        recipe_json=recipe.canonical_json(),
        clean_miou=answer.clean,
        corrupted_miou=answer.corrupted,
        early_clean_miou=None if first is None else first.clean,
        early_corrupted_miou=None if first is None else first.corrupted,
        gflops=cost,
        gflops_share=cost / space.gflops({}),
    )


def _run(measured: list[tuple[float, ...]]) -> Run:
    table = np.array(measured)
    return Run(table[:, :-3], table[:, -3], table[:, -2], table[:, -1].cumsum())


ARMS: dict[str, Callable[[Function, int, int], Run]] = {
    "random": partial(plain, lambda seed: RandomSampler(seed=seed)),
    PLAIN: partial(plain, lambda seed: TPESampler(seed=seed)),
    "NSGA-II of Optuna": partial(plain, lambda seed: NSGAIISampler(seed=seed)),
    "raycomp tpe": partial(sweep, "tpe"),
    "raycomp gp": partial(sweep, "gp", baselines=(0.6, 0.5, 0.4, 0.27)),
    "raycomp additive": partial(sweep, "additive"),
}

MEASURED_ARMS = [name for name in ARMS if name != "raycomp tpe"]
"""Searches whose trials are stored beside this file; others take hours on the elastic model."""


def main(
    function: Annotated[str, typer.Option(help="elastic or formula.")] = "elastic",
    trials: Annotated[int, typer.Option()] = 200,
    seeds: Annotated[int, typer.Option()] = 5,
    arms: Annotated[str, typer.Option(help="Names of searches, separated by commas.")] = ",".join(MEASURED_ARMS),
    out: Annotated[Path | None, typer.Option(help="Picture of the curves.")] = None,
    corner: Annotated[float, typer.Option(help="Reference accuracies, relative to dense.")] = 0.0,
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    makes: dict[str, type[Function]] = {"elastic": Elastic, "formula": Formula}
    make = makes[function]
    chosen = {name: ARMS[name] for name in arms.split(",")}
    runs: dict[str, list[Run]] = {name: [] for name in chosen}
    volumes: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    for seed in range(seeds):
        one = make(seed)
        answer = one(dense(one.shape))
        dense_values = np.array([answer.clean, answer.corrupted, one.space.gflops({})])
        for name, search in chosen.items():
            run = search(one, seed, trials)
            one.save()
            runs[name].append(run)
            volumes[name].append(run.hypervolumes(dense_values, trials, corner))
            print(f"seed {seed}, {name}: {volumes[name][-1][-1]:.4f}", flush=True)
    curves = {name: np.array(volume) for name, volume in volumes.items()}
    report(function, curves, runs)
    if out is not None:
        draw(curves, runs, out)


def report(function: str, curves: dict[str, np.ndarray], runs: dict[str, list[Run]]) -> None:
    """Print the hypervolume at the milestones, the time per ask, and the trials that reach the plain TPE's result."""
    trials = next(iter(curves.values())).shape[1]
    shown = [n for n in MILESTONES if n <= trials]
    print(f"\n{function}: hypervolume, mean and 95 % interval over {len(next(iter(curves.values())))} seeds")
    print(f"{'search':20}" + "".join(f"{n:>17}" for n in shown) + f"{'ms per ask':>12}")
    for name, curve in curves.items():
        cells = "".join(f"{curve[:, n - 1].mean():9.4f} ±{half_width(curve[:, n - 1]):6.4f}" for n in shown)
        asks = 1e3 * np.mean([run.asks.mean() for run in runs[name]])
        print(f"{name:20}{cells}{asks:12.0f}")
    if PLAIN not in curves:
        return
    for at in [n for n in (200, 500) if n <= trials]:
        target = curves[PLAIN][:, at - 1].mean()
        for name, curve in curves.items():
            ratio = curve[:, at - 1].mean() / target
            reached = [int(np.argmax(one >= target)) + 1 if one[-1] >= target else None for one in curve]
            print(f"{name}: {ratio:.2f}x the plain TPE at {at} trials, whose value it reaches after {reached} trials")


def half_width(values: np.ndarray) -> float:
    return (
        float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0
    )


def draw(curves: dict[str, np.ndarray], runs: dict[str, list[Run]], out: Path) -> None:
    """Draw the hypervolume over trials and, where trials take time, over seconds of one worker."""
    timed = any(run.seconds.any() for one in runs.values() for run in one)
    figure, panels = plt.subplots(1, 1 + timed, figsize=(5.5 * (1 + timed), 4.2), sharey=True, layout="constrained")
    for name, curve in curves.items():
        middle = curve.mean(0)
        half = np.array([half_width(column) for column in curve.T])
        axes = [np.arange(1, curve.shape[1] + 1)]
        if timed:
            axes.append(np.mean([run.seconds_at(curve.shape[1]) for run in runs[name]], axis=0))
        for panel, x in zip(np.atleast_1d(panels), axes, strict=True):
            (line,) = panel.plot(x, middle, label=name)
            panel.fill_between(x, middle - half, middle + half, color=line.get_color(), alpha=0.15, lw=0)
    for panel, label in zip(np.atleast_1d(panels), ("trials", "seconds of one worker"), strict=False):
        panel.set(xlabel=label, ylim=(0, None))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    first = np.atleast_1d(panels)[0]
    first.set_ylabel("hypervolume")
    columns = len(curves) if timed else 2
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    typer.run(main)
