# SPDX-License-Identifier: Apache-2.0
"""Measure a finished front elsewhere, without a new search: on held-out images, another data set, size or model."""

from collections import deque
from collections.abc import Sequence

from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.recipe import check_fits, dense
from raycomp.results.query import completed, final_front, is_uniform_baseline
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.shape import ModelShape, Size


def settings(name: str, sweep: SweepConfig, space: SweepConfig | None, split: str | None) -> SweepConfig:
    """Return settings to measure the sweep elsewhere: those of another space, or its own with another data split.

    The budget is the dense cost, since recipes may have another share of the dense cost there.
    """
    parts = [name, "-".join(part for part in (space.name if space else "", split) if part)]
    config = (space or sweep).model_copy(update={"name": "-on-".join(parts)})
    config = config.changed("search", budget=1.0, baselines=sweep.search.baselines)
    if split is not None:
        config = config.changed("data", eval_split=split)
    return config


def proposals(rows: Sequence[Row], budget_share: float, shape: ModelShape, window: Size) -> list[Proposal]:
    """Propose the full evaluation of the dense model, uniform baselines and front of a sweep, most expensive first.

    Raises:
        UserError: If a recipe does not fit a model of this shape.
    """
    members = final_front(rows, budget_share)
    stage = members[0].stage if members else "full"
    baselines = [row for row in completed(rows, stage) if is_uniform_baseline(row.label)]
    rows_of = {row.recipe_id: row for row in (*baselines, *members) if row.recipe_id != dense(shape).id}
    recipes = [(row.recipe, row) for row in rows_of.values()]
    result = [Proposal(0, "full", "reference", "dense", dense(shape))]
    for recipe, _ in recipes:
        try:
            check_fits(shape, recipe)
        except UserError as error:
            raise UserError(f"recipe {recipe.id} does not fit the other model: {error}") from None
    for recipe, row in sorted(recipes, key=lambda one: -gflops(shape, one[0], window)):
        result.append(Proposal(len(result), "full", row.origin, row.label, recipe))
    return result


class ProposalList:
    """A proposal source, like a search's proposer, for recipes chosen in advance."""

    def __init__(self, proposals: Sequence[Proposal], rows: Sequence[Row]) -> None:
        """`rows`: rows measured before; failed ones are measured again."""
        self.rows = {(row.stage, row.recipe_id): row for row in rows}
        done = {key for key, row in self.rows.items() if row.status == "complete"}
        self._waiting = deque(proposal for proposal in proposals if proposal.key not in done)
        self._open = set[tuple[str, str]]()

    @property
    def finished(self) -> bool:
        """Whether every proposal was handed out and its row reported."""
        return not self._waiting and not self._open

    @property
    def remaining(self) -> int:
        """Number of recipes not measured yet."""
        return len(self._waiting) + len(self._open)

    def next(self) -> Proposal | None:
        """Return the next proposal, or None if there are no more."""
        if not self._waiting:
            return None
        proposal = self._waiting.popleft()
        self._open.add(proposal.key)
        return proposal

    def tell(self, row: Row) -> None:
        """Report a finished row."""
        key = (row.stage, row.recipe_id)
        self._open.discard(key)
        self.rows[key] = row
