# SPDX-License-Identifier: Apache-2.0
"""Compare searched recipes with uniform ones on images that no search saw.

    python benchmarks/beyond_uniform.py --seeds 0,1,2,3,4      # elastic ViT-micro; replayed where it was measured

Each seed is one search of the embedded default, driven without Ray by one worker. At each share of the dense cost, the
full stage chooses among the two most accurate recipes of the search and its best uniform baseline. That recipe, and
every uniform recipe of at most its share, are measured on the test split. Prints the gain in points of the mean of
clean and corrupted mIoU over the best uniform recipe by pruning, ToMe and both, and over the best by local+ToMe too.
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
from search import Function, row_of
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
    uniform = {name: uniform_recipes(function, name) for name in ("tome", "windows_tome")}
    full = function.space.gflops({})
    gains: list[list[tuple[float, float]]] = []
    for seed in numbers("--seeds", seeds, 0, 10_000):
        changes = {"seed": int(seed), "sampler": sampler, "trials": trials or settings.trials}
        rows = searched(function, settings.model_copy(update=changes))
        gains.append([])
        for share in function.baselines:
            row = best(function, rows, share * full)
            rivals = [best_uniform(function, recipes, share * full) for recipes in uniform.values()]
            found = function(row.recipe, "test")
            plain, local = (100 * (mean(found) - rival) for rival in (rivals[0], max(rivals)))
            gains[-1].append((plain, local))
            print(
                f"seed {seed:.0f}, {share:.0%}: {row.recipe_id} {row.label} of {row.gflops_share:.1%}, "
                f"{100 * found.clean:.2f} / {100 * found.corrupted:.2f}, {plain:+.2f}, {local:+.2f}",
                flush=True,
            )
        function.save()
    print(f"\ngain over uniform ToMe, pruning and both, then over local+ToMe as well; {len(gains)} seeds")
    print(f"{'share':>6}{'mean':>8}{'least':>8}{'mean':>10}{'least':>8}")
    for share, column in zip(function.baselines, np.array(gains).transpose(1, 2, 0), strict=True):
        (plain, local), (least, least_local) = column.mean(axis=1), column.min(axis=1)
        print(f"{share:6.0%}{plain:+8.2f}{least:+8.2f}{local:+10.2f}{least_local:+8.2f}")


def searched(function: Function, config: SearchConfig) -> list[Row]:
    """Run a search, and return its rows: probes, trials, and the dense model's."""
    proposer = Proposer(function.space, config, [], function.trained, function.probe_trials)
    rows = []
    while (proposal := proposer.next()) is not None and proposal.stage != "full":
        rows.append(row_of(proposal, function(proposal.recipe, proposal.stage), function.space))
        proposer.tell(rows[-1])
    proposer.close()
    function.save()
    return rows


def best(function: Function, rows: list[Row], budget: float) -> Row:
    """Return the recipe that the full stage prefers among the finalists within the budget."""
    within = [row for row in rows if row.cost <= budget * (1 + 1e-9) and row.origin != "reference"]
    order = sorted(within, key=lambda row: -mean_accuracy(row))
    finalists = [row for row in order if row.stage == "search" and row.origin == "proposed"][:_FINALISTS]
    finalists += [row for row in order if is_uniform_baseline(row.label)][:1]
    return max(finalists, key=lambda row: mean(function(row.recipe, "full")))


def uniform_recipes(function: Elastic, method: str) -> list[Baseline]:
    """Return the uniform recipes at the shares of the search: merging by this method, pruning, and both."""
    narrowest = function.trained.recipe(function.trained.smallest)
    merging, space = METHODS[method].standard(function.shape, ""), function.space
    matched = matched_baselines(function.shape, space.image, function.baselines, space.cost, narrowest, merging)
    return [one for one in matched if is_uniform_baseline(one.label) and not function.trained.outside(one.recipe)]


def best_uniform(function: Elastic, uniform: list[Baseline], budget: float) -> float:
    """Return the mean mIoU on the test split of the best of these recipes within the budget."""
    within = [one for one in uniform if function.space.cost(one.recipe) <= budget * (1 + 1e-9)]
    return max(mean(function(one.recipe, "test")) for one in within)


def mean(trial: Trial) -> float:
    return (trial.clean + trial.corrupted) / 2


if __name__ == "__main__":
    typer.run(main)
