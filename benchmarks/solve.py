# SPDX-License-Identifier: Apache-2.0
"""Compare `raycomp solve --confirm 1` with a new search at every budget.

    python benchmarks/solve.py                         # the elastic ViT-micro
    python benchmarks/solve.py --function formula      # a minute a seed

One sweep of 60 trials over the whole front (60 to 12 % of the GFLOPs) answers all budgets: its model is solved, and
the solution is measured. Each budget also gets a search of its own, with 60 trials near it (`front: false`). All
recipes are judged on the full set: the solution alone, the best recipe that the sweep has after its confirmation, as
`raycomp pick` finds it, and the best of the other search. Differences are in points of the mean of clean and corrupted
mIoU; intervals are 95 % (Student's t over seeds).
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer

from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.search.solutions import Problem, best_measured, solutions
from raycomp.settings.space_and_search import SearchConfig
from search import BUDGET, Function, half_width, row_of
from trial_functions import Elastic, Formula

GOAL = -0.3  # points


def swept(function: Function, config: SearchConfig) -> list[Row]:
    """Run a sweep to its end, full stage included, and return its rows."""
    proposer = Proposer(function.space, config, [], function.space, function.probe_trials)
    rows = []
    while (proposal := proposer.next()) is not None:
        answer = function(proposal.recipe, proposal.stage)
        rows.append(row_of(proposal, answer, function.space))
        proposer.tell(rows[-1])
    proposer.close()
    function.save()
    return rows


def judged(function: Function, row: Row | None) -> float:
    """Return the mean of a row's mIoUs on the full set, in points; NaN without a row."""
    if row is None:
        return float("nan")
    answer = function(row.recipe, "full")
    return 100 * (answer.clean + answer.corrupted) / 2


def compared(function: Function, seed: int, trials: int, budgets: Sequence[float]) -> np.ndarray:
    """Return the points of the solution, of the sweep with it, and of a search at the budget (budgets, 3)."""
    whole = SearchConfig(budget=BUDGET, trials=trials, seed=seed, baselines=function.baselines)
    rows, found = swept(function, whole), []
    for share in budgets:
        problem = Problem(function.space, function.space.budget_of(share), {})
        [solution] = solutions(problem, rows)
        proposal = Proposal(len(rows), "full", "proposed", "", solution.recipe)
        confirmed = row_of(proposal, function(solution.recipe, "full"), function.space)
        with_it = best_measured(problem, [*rows, confirmed])
        alone = SearchConfig(budget=share, trials=trials, seed=seed, baselines=function.baselines, front=False)
        fresh = best_measured(problem, swept(function, alone))
        found.append([judged(function, row) for row in (confirmed, with_it, fresh)])
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
