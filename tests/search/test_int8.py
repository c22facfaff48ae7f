# SPDX-License-Identifier: Apache-2.0
"""A search that chooses the precision as well, over fake trials and times."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from raycomp.bounds import Bound
from raycomp.footprint import file_size
from raycomp.recipe import Recipe, dense
from raycomp.results.query import final_front
from raycomp.search.knowledge import Knowledge
from raycomp.search.proposer import Proposer
from raycomp.search.solutions import Problem, solutions
from raycomp.search.surrogate import max_steps
from raycomp.settings.space_and_search import SearchConfig, SpaceConfig, WidthRange
from raycomp.shape import ModelShape
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.tables import table_of
from tests.helpers.trials import TokenClock, fake_row

WIDTHS = {"embed": WidthRange(low=16), "mlp": WidthRange(low=32, step=16)}
SEARCH = SearchConfig(budget=0.9, trials=24, baselines=(0.9, 0.7), cost_metric="latency", latency_engine="onnxruntime")


def searched(*precision: str, int8: float = 0.6, **changes: Any) -> Proposer:
    """Run a search with one worker in which INT8 loses a point of mIoU, and takes `int8` of the time."""
    clock: Any = TokenClock(TINY, int8)
    space = Space(TINY, SpaceConfig.model_validate({**WIDTHS, "precision": precision}), TINY.image, clock)
    proposer = Proposer(space, SEARCH.model_copy(update=changes), [])
    while (proposal := proposer.next()) is not None:
        proposer.tell(fake_row(TINY, proposal, clock=clock))
    proposer.close()
    return proposer


@pytest.mark.parametrize("sampler", ["additive", "gp", "tpe", "random"])
def test_a_search_finds_that_int8_pays_where_time_is_short(sampler):
    """Without pruning, INT8 takes 60 % of the time; in float32, merging as much loses more than it does."""
    proposer = searched("fp32", "int8", sampler=sampler)
    assert {row.precision for row in proposer.search_rows() if row.origin == "proposed"} == {"fp32", "int8"}
    members = final_front(list(proposer.rows.values()), 0.9)
    short = [row for row in members if row.cost_share < 0.85]
    assert {row.precision for row in short} == {"int8"}
    assert all(row.family.endswith("int8") for row in short)


def test_a_search_stays_in_float32_where_int8_takes_longer():
    proposer = searched("fp32", "int8", int8=1.5, trials=40)
    assert {row.precision for row in final_front(list(proposer.rows.values()), 0.9)} == {"fp32"}


def test_the_first_baseline_is_the_dense_model_in_int8():
    rows = sorted(searched("fp32", "int8").rows.values(), key=lambda row: row.number)
    labels = {row.label: row for row in rows if row.origin == "baseline" and row.stage == "search"}
    assert labels["dense in INT8 60%"].recipe == dense(TINY).at("int8")
    others = {row.precision for label, row in labels.items() if not label.startswith("dense in INT8")}
    assert others == {"fp32"}
    few = searched("fp32", "int8", trials=2).rows.values()  # of which half are baselines
    assert [row.label for row in few if row.origin == "baseline" and row.stage == "search"] == ["dense in INT8 60%"]


def test_with_int8_alone_all_recipes_but_the_reference_are_int8():
    rows = searched("int8").rows.values()
    assert {row.precision for row in rows if row.origin != "reference"} == {"int8"}
    assert {row.precision for row in rows if row.origin == "reference"} == {"fp32"}
    assert {row.label.rpartition(" ")[0] for row in rows if row.origin == "baseline"} >= {"uniform ToMe"}


def test_a_solution_without_a_trial_may_be_in_int8():
    """Half of the dense time cannot be had in float32 without a loss of several points."""
    proposer = searched("fp32", "int8")
    space = proposer.space
    problem = Problem(space, space.budget_of(0.5), {})
    [solution] = solutions(problem, list(proposer.rows.values()))
    assert solution.recipe.precision == "int8"
    assert space.cost(solution.recipe) <= space.budget_of(0.5)


def test_a_search_resumes_with_the_same_proposals():
    whole = searched("fp32", "int8")
    rows = sorted((row for (stage, _), row in whole.rows.items() if stage == "search"), key=lambda row: row.number)
    clock: Any = TokenClock(TINY, 0.6)
    again = Proposer(whole.space, SEARCH, rows[:15])
    proposal = again.next()
    assert proposal is not None
    assert (proposal.number, proposal.recipe.id) == (rows[15].number, rows[15].recipe_id)
    again.close()
    assert clock.latency_ms(proposal.recipe) <= 0.9 * clock.latency_ms(dense(TINY))


@pytest.mark.parametrize("precision", [("fp32",), ("int8",), ("fp32", "int8")])
@pytest.mark.parametrize("limits", [(), ("file",)])
def test_costs_of_many_points_are_those_of_each_recipe_by_a_real_table(rng, precision, limits):
    fast = table_of(TINY, linear=1e-6, softmax=1e-5, halves=0.1)
    table = replace(fast, costs=fast.costs | {"int8": {kind: 0.6 * cost for kind, cost in fast.costs["fp32"].items()}})
    config = SpaceConfig.model_validate({**WIDTHS, "precision": precision})
    half = {name: Bound(name, 0.5, partial(_size, TINY), _size(TINY, dense(TINY))) for name in limits}
    space = Space(TINY, config, TINY.image, table, limits=tuple(half.values()))
    known, budget = Knowledge(space), 0.5 * space.cost(dense(TINY))
    points = rng.integers(0, max_steps(list(space.dimensions.values())) + 1, size=(40, len(space.dimensions)))
    _, loads = known.evaluator(lambda described: described.gflops, budget)(points)
    assert loads == pytest.approx([space.load(space.recipe(known.params(at)), budget) for at in points])


def _size(shape: ModelShape, recipe: Recipe) -> float:
    return float(file_size(shape, recipe))
