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
from raycomp.settings.amounts import Limit
from raycomp.settings.space_and_search import LimitsConfig
from raycomp.shape import ModelShape, Size


def settings(name: str, sweep: SweepConfig, space: SweepConfig | None, split: str | None) -> SweepConfig:
    """Return settings to measure a sweep elsewhere: those of another space, or of the sweep, and another data split.

    The budget is the dense cost and there are no other limits, since recipes may cost a different share of it there.
    Nothing is searched, so INT8 stays a precision of the space only if it is timed.
    """
    place = "-".join(filter(None, (space.name if space else "", split)))
    config = space or sweep
    precision = config.space.precision if config.search.cost_metric == "latency" else ("fp32",)
    timed = config.space.model_copy(update={"precision": precision})
    config = config.model_copy(update={"name": f"{name}-on-{place}", "space": timed})
    free = {"limits": LimitsConfig(), "budget": 1.0, "baselines": sweep.search.baselines}
    config = config.model_copy(update={"search": config.search.model_copy(update=free)})
    if split is not None:
        config = config.changed("data", eval_split=split)
    return config


def proposals(rows: Sequence[Row], budget: Limit, shape: ModelShape, window: Size) -> list[Proposal]:
    """Propose the full evaluation of the dense model, uniform baselines and front of a sweep, most expensive first.

    Raises:
        UserError: If a recipe does not fit a model of this shape.
    """
    members = final_front(rows, budget)
    stage = members[0].stage if members else "full"
    baselines = [row for row in completed(rows, stage) if is_uniform_baseline(row.label)]
    chosen = {row.recipe_id: row for row in (*baselines, *members) if row.recipe_id != dense(shape).id}
    for row in chosen.values():
        try:
            check_fits(shape, row.recipe)
        except UserError as error:
            raise UserError(f"recipe {row.recipe_id} does not fit the other model: {error}") from None
    expensive_first = sorted(chosen.values(), key=lambda row: -gflops(shape, row.recipe, window))
    others = (Proposal(i, "full", row.origin, row.label, row.recipe) for i, row in enumerate(expensive_first, 1))
    return [Proposal(0, "full", "reference", "dense", dense(shape)), *others]


def check_int8(config: SweepConfig, proposed: Sequence[Proposal]) -> bool:
    """Return whether any recipe is INT8.

    Raises:
        UserError: If the settings cannot measure or time it.
    """
    recipe = next((one.recipe for one in proposed if one.recipe.precision == "int8"), None)
    if recipe is None:
        return False
    if config.evaluation.dtype != "float32":
        raise UserError(
            f"recipe {recipe.id} is INT8: expected evaluation.dtype float32 of {config.name}, not "
            f"{config.evaluation.dtype}"
        )
    if config.search.cost_metric == "latency" and "int8" not in config.space.precision:
        raise UserError(
            f"recipe {recipe.id} is INT8, which {config.name} does not time: expected int8 in space.precision"
        )
    return True


class ProposalList:
    """A source of proposals that were chosen in advance."""

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
