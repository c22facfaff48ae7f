# SPDX-License-Identifier: Apache-2.0
"""The answer of `raycomp solve`: solutions with what the model expects of them, beside what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from raycomp.recipe import Recipe, dense
from raycomp.report.confidence import Confidence, confidence
from raycomp.results.query import completed, final_stage
from raycomp.results.row import Row
from raycomp.search.solutions import Problem, Solution, best_measured


@dataclass(frozen=True)
class Answer:
    """Solutions of a problem, and the best recipe measured within its limits."""

    problem: Problem
    stage: str
    """Final stage of the sweep, which all mIoUs are of."""
    solutions: Sequence[Solution]
    measured: Mapping[str, Row]
    """Complete rows of solutions by recipe id."""
    best: Row | None
    """The best recipe measured within the limits; None if there is none."""

    @classmethod
    def of(cls, problem: Problem, rows: Sequence[Row], solutions: Sequence[Solution]) -> "Answer":
        """Look up what was measured."""
        stage, ids = final_stage(rows), {one.recipe.id for one in solutions}
        measured = {row.recipe_id: row for row in completed(rows, stage) if row.recipe_id in ids}
        return cls(problem, stage, solutions, measured, best_measured(problem, rows))

    @cached_property
    def confidences(self) -> dict[str, Confidence]:
        """Confidence of the measured rows by recipe id."""
        rows = [*self.measured.values(), *([] if self.best is None else [self.best])]
        return confidence(list({row.recipe_id: row for row in rows}.values()))

    def costs(self, recipe: Recipe) -> dict[str, float]:
        """Return the costs of a recipe by name, and its share of the dense GFLOPs."""
        costs = {name: float(cost(recipe)) for name, cost in self.problem.costs.items()}
        whole = self.problem.costs["gflops"](dense(self.problem.space.shape))
        return {"gflops": costs["gflops"], "gflops_share": costs["gflops"] / whole} | costs

    def data(self) -> dict[str, object]:
        """Return the answer as JSON; mIoUs are in [0, 1]."""
        best = None if self.best is None else self._measurement(self.best)
        return {"stage": self.stage, "solutions": [self._data(one) for one in self.solutions], "best_measured": best}

    def _data(self, solution: Solution) -> dict[str, object]:
        recipe, row = solution.recipe, self.measured.get(solution.recipe.id)
        return {
            "recipe_id": recipe.id,
            "family": recipe.family(self.problem.space.shape),
            "recipe": recipe.model_dump(mode="json"),
            "costs": self.costs(recipe),
            "expected": solution.mious,
            "measured": None if row is None else self._measurement(row),
        }

    def _measurement(self, row: Row) -> dict[str, object]:
        beside = {"costs": self.costs(row.recipe), "confidence": self.confidences.get(row.recipe_id)}
        return row.columns() | beside
