# SPDX-License-Identifier: Apache-2.0
"""Solutions to measure, kept in the sweep's folder until all are, so that an interruption changes none of them.

Rows of the first would otherwise teach the model, which would then solve for others.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count

from raycomp.errors import UserError
from raycomp.files import written
from raycomp.recipe import Recipe
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.search.solutions import Estimate, Solution
from raycomp.storage import AnyPath

_FILE = "confirming.json"
_STAGES = ("search", "full")
Asked = Mapping[str, object]
"""The limits and the number of solutions asked for, as JSON."""


@dataclass(frozen=True)
class Confirmation:
    """Solutions to measure at both stages."""

    asked: Asked
    solutions: Sequence[Solution]

    @classmethod
    def unfinished(cls, folder: AnyPath, asked: Asked) -> "Confirmation | None":
        """Return the confirmation of these limits that was interrupted; None if there is none.

        Raises:
            UserError: If its file cannot be read.
        """
        path = folder / _FILE
        if not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text())
            found = [_solution(one) for one in stored["solutions"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not the solutions of a sweep ({type(error).__name__}); delete it") from None
        return cls(asked, found) if stored.get("asked") == asked else None

    def save(self, folder: AnyPath) -> None:
        """Write the solutions to the folder, atomically."""
        found = [{"recipe": one.recipe.model_dump(mode="json"), "mious": _plain(one)} for one in self.solutions]
        with written(folder / _FILE) as temporary:
            temporary.write_text(json.dumps({"asked": self.asked, "solutions": found}))

    @staticmethod
    def forget(folder: AnyPath) -> None:
        """Remove the file once all solutions are measured."""
        (folder / _FILE).unlink(missing_ok=True)

    def proposals(self, rows: Sequence[Row]) -> list[Proposal]:
        """Return what remains to be measured of every solution, numbered after the rows of its stage."""
        done = {(row.stage, row.recipe_id) for row in rows if row.status == "complete"}
        known = {row.recipe_id: (row.origin, row.label) for row in rows if row.stage in ("probe", *_STAGES)}
        numbers = {"search": _following(rows, "probe", "search"), "full": _following(rows, "full")}
        return [
            Proposal(next(numbers[stage]), stage, *known.get(one.recipe.id, ("proposed", "")), one.recipe)
            for one in self.solutions
            for stage in _STAGES
            if (stage, one.recipe.id) not in done
        ]

    def measured(self, rows: Sequence[Row]) -> dict[str, Row]:
        """Return the rows of the solutions on the full set by recipe id, complete or failed."""
        full = {row.recipe_id: row for row in rows if row.stage == "full"}
        return {name: full[name] for one in self.solutions if (name := one.recipe.id) in full}


def _following(rows: Sequence[Row], *stages: str) -> Iterator[int]:
    return count(1 + max((row.number for row in rows if row.stage in stages), default=-1))


def _plain(solution: Solution) -> dict[str, dict[str, float]]:
    return {name: asdict(one) for name, one in solution.mious.items()}


def _solution(stored: dict[str, dict[str, dict[str, float]]]) -> Solution:
    mious = {name: Estimate(**one) for name, one in stored["mious"].items()}
    return Solution(Recipe.model_validate(stored["recipe"]), mious)
