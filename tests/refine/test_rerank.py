# SPDX-License-Identifier: Apache-2.0
"""A front measured elsewhere: the same recipes, none over the limit, each once, and what cannot be is told."""

from dataclasses import replace

import pytest

from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.recipe import dense
from raycomp.refine.rerank import ProposalList, check_int8, proposals, settings
from raycomp.results.pareto import front
from raycomp.results.query import agreement, at_budgets, final_front, uniform_baselines
from raycomp.search.proposal import Proposal
from tests.conftest import TINY
from tests.helpers.sweep_views import sweep_view
from tests.helpers.trials import fake_row

SWEEP = sweep_view()
LARGE = TINY.model_copy(update={"image": (64, 64)})


def wanted(shape=TINY):
    return proposals(SWEEP.rows, SWEEP.share, shape, shape.image)


def test_dense_baselines_and_front_each_once_and_costliest_first():
    chosen = wanted()
    ids = [one.recipe.id for one in chosen]
    assert (chosen[0].origin, chosen[0].recipe) == ("reference", dense(TINY))
    assert len(set(ids)) == len(ids)
    assert {row.recipe_id for row in SWEEP.front} < set(ids)
    assert {one.label.rpartition(" ")[0] for one in chosen} >= set(uniform_baselines())
    costs = [gflops(TINY, one.recipe) for one in chosen]
    assert costs == sorted(costs, reverse=True)
    assert {one.stage for one in chosen} == {"full"}


def test_all_are_within_the_limit_there_and_dense_is_no_member_of_the_front():
    """Attention is a larger share of larger images, so a recipe's share of the GFLOPs is another."""
    config = settings("tiny", SWEEP.config, None, "test")
    assert config.name == "tiny-on-test"
    assert config.data.eval_split == "test"
    rows = [fake_row(LARGE, one) for one in wanted(LARGE)]
    shares = {row.recipe_id: row.gflops_share for row in rows}
    assert any(shares[row.recipe_id] > row.gflops_share for row in SWEEP.front), "such that it matters"
    members = final_front(rows, config.search.budget)
    assert {row.recipe_id for row in members} <= set(shares) - {dense(LARGE).id}
    assert {row.recipe_id for row in members} == {row.recipe_id for row in front(rows[1:])}


def test_a_baseline_that_costs_another_share_there_is_not_set_beside_that_share():
    rows = [fake_row(TINY, one) for one in wanted()]
    [at] = at_budgets(rows, [0.5], 1.0)
    assert all(row.gflops_share <= 0.5005 for row in at.baselines.values() if row is not None)
    assert any(row is not None for row in at.baselines.values())
    dearer = [replace(row, gflops_share=1.1 * row.gflops_share) for row in rows]
    assert not any(at_budgets(dearer, [0.5], 1.1)[0].baselines.values())


def test_another_space_gives_its_name_model_and_data():
    other = SweepConfig.model_validate(
        {"name": "other", "model": {"checkpoint": "b"}, "data": {"dataset": "camvid", "root": "data"}}
    )
    config = settings("tiny", SWEEP.config, other, None)
    assert (config.name, config.model.checkpoint, config.data.dataset) == ("tiny-on-other", "b", "camvid")
    assert settings("half", SWEEP.config, other, "test").name == "half-on-other-test"


def test_recipes_in_int8_are_measured_elsewhere_if_that_is_possible():
    timed: dict[str, object] = {"cost_metric": "latency", "latency_engine": "onnxruntime"}
    both = {"merge": "tome", "precision": ["fp32", "int8"]}
    plain, whole = SWEEP.config, Proposal(0, "full", "proposed", "", dense(TINY).at("int8"))
    assert not check_int8(plain, wanted())
    limited = timed | {"cost_metric": "gflops", "limits": {"ms": 0.5}}
    for search, kept in ((timed, ("fp32", "int8")), (limited, ("fp32",))):
        own = SweepConfig.model_validate(plain.model_dump() | {"search": search, "space": both})
        there = settings("tiny", own, None, "test")
        assert there.space.precision == kept
        assert SweepConfig.model_validate(there.model_dump()) == there
        assert check_int8(there, [*wanted(), whole])
    with pytest.raises(UserError, match=r"is INT8, which tiny does not time: expected int8 in space\.precision"):
        check_int8(plain.changed("search", cost_metric="latency"), [whole])
    with pytest.raises(UserError, match=r"is INT8: expected evaluation\.dtype float32 of tiny, not bfloat16"):
        check_int8(plain.changed("evaluation", dtype="bfloat16"), [whole])


def test_a_recipe_that_does_not_fit_is_refused_before_anything_runs():
    shallow = TINY.model_copy(update={"depth": 2})
    with pytest.raises(
        UserError, match="does not fit the other model: recipe: field 'blocks' has 3 entries, the model 2"
    ):
        wanted(shallow)


def test_what_is_measured_is_not_handed_out_again_and_what_failed_is():
    done = [fake_row(TINY, one) for one in wanted()[:3]] + [fake_row(TINY, wanted()[3], "failed")]
    given, handed = ProposalList(wanted(), done), []
    assert given.remaining == len(wanted()) - 3
    while (proposal := given.next()) is not None:
        handed.append(proposal)
        assert not given.finished
        given.tell(fake_row(TINY, proposal))
    assert given.finished
    assert [one.key for one in handed] == [one.key for one in wanted()[3:]]
    assert len(given.rows) == len(wanted())


def test_agreement_is_of_the_recipes_that_both_have():
    here = [row for row in SWEEP.rows if row.stage == "full"]
    worse = [replace(row, clean_miou=1 - row.clean_miou) for row in here[2:]]
    told = agreement(here, worse)
    assert told["clean_miou"] == pytest.approx(-1)
    assert told["corrupted_miou"] == pytest.approx(1)
    assert agreement(here, here[:2]) == {}
