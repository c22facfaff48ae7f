# SPDX-License-Identifier: Apache-2.0
"""Compare `raycomp solve --confirm 1` with a new search at every budget.

    python benchmarks/solve.py                         # the elastic ViT-micro, half an hour
    python benchmarks/solve.py --function formula      # a minute a seed

One sweep of 60 trials over the whole front (60 to 12 % of the GFLOPs) answers all budgets: its model is solved, and
the solution is measured. Each budget also gets a search of its own, with 60 trials near it (`front: false`). All
recipes are judged on the full set: the solution alone; the best of the solution and of what the sweep found within the
budget; and the best that the other search found. The full set chooses among the two most accurate recipes of a search
and its best baseline. Differences are in points of the mean of clean and corrupted mIoU; intervals are 95 % (Student's
t over seeds).
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer

from beyond_uniform import best, mean, searched
from raycomp.search.solutions import Problem, solutions
from raycomp.settings.space_and_search import SearchConfig
from search import BUDGET, Function, half_width
from trial_functions import Elastic, Formula

GOAL = -0.3  # points


def compared(function: Function, seed: int, trials: int, budgets: Sequence[float]) -> np.ndarray:
    """Return the points of the solution, of the sweep with it, and of a search at the budget (budgets, 3)."""
    whole = SearchConfig(budget=BUDGET, trials=trials, seed=seed, baselines=function.baselines)
    rows, full, found = searched(function, whole), function.space.gflops({}), []
    for share in budgets:
        [solution] = solutions(Problem(function.space, function.space.budget_of(share), {}), rows)
        alone = SearchConfig(budget=share, trials=trials, seed=seed, baselines=function.baselines, front=False)
        recipes = [best(function, one, share * full).recipe for one in (rows, searched(function, alone))]
        solved, known, fresh = (100 * mean(function(recipe, "full")) for recipe in (solution.recipe, *recipes))
        found.append([solved, max(solved, known), fresh])
        print(f"seed {seed}, {share:.0%}: " + ", ".join(f"{points:.2f}" for points in found[-1]), flush=True)
        function.save()
    return np.array(found)


def main(
    function: Annotated[str, typer.Option(help="elastic or formula.")] = "elastic",
    trials: Annotated[int, typer.Option()] = 60,
    seeds: Annotated[int, typer.Option()] = 3,
    budgets: Annotated[str, typer.Option(help="Shares of the dense GFLOPs, in percent.")] = "45,36,30,24,20",
) -> None:
    makes: dict[str, type[Function]] = {"elastic": Elastic, "formula": Formula}
    make = makes[function]
    shares = [float(one) / 100 for one in budgets.split(",")]
    points = np.array([compared(make(seed), seed, trials, shares) for seed in range(seeds)])  # (seeds, budgets, 3)
    print(f"\n{function}: mean of clean and corrupted mIoU on the full set, {seeds} seeds, {trials} trials a sweep")
    names = "solution", "with the sweep", "new search"
    print("budget" + "".join(f"{name:>16}" for name in names) + f"{'solution - new':>20}{'with sweep - new':>20}")
    for share, found in zip(shares, points.transpose(1, 2, 0), strict=True):  # (3, seeds)
        gains = [found[index] - found[2] for index in (0, 1)]
        cells = "".join(f"{one.mean():12.2f} ±{half_width(one):4.2f}"[-16:] for one in found)
        ends = "".join(f"{one.mean():+13.2f} ±{half_width(one):4.2f}"[-20:].rjust(20) for one in gains)
        reached = "" if gains[1].mean() >= GOAL else "  below the goal"
        print(f"{share:6.0%}{cells}{ends}{reached}")


if __name__ == "__main__":
    typer.run(main)
