# SPDX-License-Identifier: Apache-2.0
"""Compare searched recipes with uniform ones on images that no search saw.

    python benchmarks/beyond_uniform.py --seeds 0,1,2,3,4      # elastic ViT-micro; replayed where it was measured

Each seed is one search of the embedded default, driven without Ray by one worker. At each share of the dense cost, the
full stage chooses among the two most accurate recipes of the search and its best uniform baseline. That recipe, and
every uniform recipe of at most its share, are measured on the test split. Prints the gain in points of the mean of
clean and corrupted mIoU over the best uniform recipe: pruning, ToMe, local+ToMe, and pruning with either.
"""

from typing import Annotated

import numpy as np
import typer

from raycomp.commands.inputs import numbers
from raycomp.merging import METHODS
from raycomp.objectives import mean_accuracy
from raycomp.results.query import is_uniform_baseline
from raycomp.results.row import Row
from raycomp.search.baselines import Baseline, matched_baselines
from raycomp.search.proposer import Proposer
from raycomp.settings.space_and_search import SearchConfig
from search import row_of
from trial_functions import Elastic, Trial

_FINALISTS = 2
"""Recipes of a search that the full stage compares at each share."""


def main(
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2,3,4",
    trials: Annotated[int, typer.Option(help="Trials of each search; by default those of the embedded default.")] = 0,
    sampler: Annotated[str, typer.Option()] = "additive",
) -> None:
    function = Elastic(0)
    settings = function.config.search
    uniform = uniform_recipes(function)
    full = function.space.gflops({})
    gains: list[list[float]] = []
    for seed in numbers("--seeds", seeds, 0, 10_000):
        config = settings.model_copy(
            update={"seed": int(seed), "sampler": sampler, "trials": trials or settings.trials}
        )
        rows = search(function, config)
        chosen = [best(function, rows, share * full) for share in function.baselines]
        gains.append([])
        for share, row in zip(function.baselines, chosen, strict=True):
            rival, accuracy = best_uniform(function, uniform, share * full)
            found = function(row.recipe, "test")
            gains[-1].append(100 * (mean(found) - accuracy))
            print(
                f"seed {seed:.0f}, {share:.0%}: {row.recipe_id} of {row.gflops_share:.1%}, {100 * found.clean:.2f} / "
                f"{100 * found.corrupted:.2f}, {gains[-1][-1]:+.2f} over {rival.label}",
                flush=True,
            )
        function.save()
    print(f"\n{'share':>6} {'gain, mean':>11} {'least':>7}   over {len(gains)} seeds")
    for share, column in zip(function.baselines, np.array(gains).T, strict=True):
        print(f"{share:6.0%} {column.mean():+11.2f} {column.min():+7.2f}")


def search(function: Elastic, config: SearchConfig) -> list[Row]:
    """Run a search, and return the rows of its trials and baselines."""
    proposer = Proposer(function.space, config, [], function.trained, function.probe_trials)
    rows = []
    while (proposal := proposer.next()) is not None and proposal.stage != "full":
        rows.append(row_of(proposal, function(proposal.recipe, proposal.stage), function.space))
        proposer.tell(rows[-1])
    proposer.close()
    function.save()
    return [row for row in rows if row.stage == "search" or row.origin == "baseline"]


def best(function: Elastic, rows: list[Row], budget: float) -> Row:
    """Return the recipe that the full stage prefers among the finalists within the budget."""
    within = [row for row in rows if row.cost <= budget * (1 + 1e-9) and row.origin != "reference"]
    order = sorted(within, key=lambda row: -mean_accuracy(row))
    finalists = [row for row in order if row.stage == "search"][:_FINALISTS]
    finalists += [row for row in order if is_uniform_baseline(row.label)][:1]
    return max(finalists, key=lambda row: mean(function(row.recipe, "full")))


def uniform_recipes(function: Elastic) -> list[Baseline]:
    """Return the uniform recipes of every kind at the shares of the search."""
    narrowest = function.trained.recipe(function.trained.smallest)
    found: dict[str, Baseline] = {}
    for name in ("tome", "windows_tome"):
        merging = METHODS[name].standard(function.shape, "")
        space = function.space
        for one in matched_baselines(function.shape, space.image, function.baselines, space.cost, narrowest, merging):
            if is_uniform_baseline(one.label) and not function.trained.outside(one.recipe):
                found.setdefault(one.recipe.id, one)
    return list(found.values())


def best_uniform(function: Elastic, uniform: list[Baseline], budget: float) -> tuple[Baseline, float]:
    """Return the uniform recipe within the budget that is best on the test split, and its mean mIoU."""
    within = [one for one in uniform if function.space.cost(one.recipe) <= budget * (1 + 1e-9)]
    measured = [mean(function(one.recipe, "test")) for one in within]
    winner = int(np.argmax(measured))
    return within[winner], measured[winner]


def mean(trial: Trial) -> float:
    return (trial.clean + trial.corrupted) / 2


if __name__ == "__main__":
    typer.run(main)
