"""Re-rank a finished front elsewhere, without a new search: on held-out images, another data set, size or model."""

from collections import deque
from collections.abc import Sequence

from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.recipe import Recipe, check_fits, dense
from raycomp.results.query import completed, final_front, is_baseline
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.shape import ModelShape, Size


def settings(name: str, found: SweepConfig, space: SweepConfig | None, split: str | None) -> SweepConfig:
    """The settings of the sweep of this name elsewhere: another space's, or its own with another split of the data.

    The dense model is the only limit: what is within the sweep's own may cost another share there.
    """
    parts = [name, "-".join(part for part in (space.name if space else "", split) if part)]
    config = (space or found).model_copy(update={"name": "-on-".join(parts)})
    config = config.changed("search", budget=1.0, baselines=found.search.baselines)
    if split is not None:
        config = config.changed("data", eval_split=split)
    return config


def proposals(rows: Sequence[Row], budget_share: float, shape: ModelShape, window: Size) -> list[Proposal]:
    """The dense model, the uniform baselines and the front of a sweep, to be measured on the full set, costliest first.

    Raises:
        UserError: for a recipe that a model of this shape cannot be cut to.
    """
    members = final_front(rows, budget_share)
    stage = members[0].stage if members else "full"
    baselines = [row for row in completed(rows, stage) if is_baseline(row.label)]
    rows_of = {row.recipe_id: row for row in (*baselines, *members) if row.recipe_id != dense(shape).id}
    recipes = [(Recipe.model_validate_json(row.recipe_json), row) for row in rows_of.values()]
    found = [Proposal(0, "full", "reference", "dense", dense(shape))]
    for recipe, _ in recipes:
        try:
            check_fits(shape, recipe)
        except UserError as error:
            raise UserError(f"recipe {recipe.id} does not fit the other model: {error}") from None
    for recipe, row in sorted(recipes, key=lambda one: -gflops(shape, one[0], window)):
        found.append(Proposal(len(found), "full", row.origin, row.label, recipe))
    return found


class Given:
    """Hands out recipes that were chosen before; in place of a search's proposer."""

    def __init__(self, wanted: Sequence[Proposal], rows: Sequence[Row]) -> None:
        """`rows`: what is measured of them already; what failed is tried again."""
        self.rows = {(row.stage, row.recipe_id): row for row in rows}
        done = {key for key, row in self.rows.items() if row.status == "complete"}
        self._waiting = deque(proposal for proposal in wanted if proposal.key not in done)
        self._open = set[tuple[str, str]]()

    @property
    def finished(self) -> bool:
        """True when everything is handed out and told."""
        return not self._waiting and not self._open

    @property
    def remaining(self) -> int:
        """Recipes that are not measured yet."""
        return len(self._waiting) + len(self._open)

    def next(self) -> Proposal | None:
        """The next proposal, or None where there is no more."""
        if not self._waiting:
            return None
        proposal = self._waiting.popleft()
        self._open.add(proposal.key)
        return proposal

    def tell(self, row: Row) -> None:
        """Take a finished row."""
        key = (row.stage, row.recipe_id)
        self._open.discard(key)
        self.rows[key] = row
