# SPDX-License-Identifier: Apache-2.0
"""What is proposed: known recipes first, never over budget, never twice, the same after a restart."""

from dataclasses import replace

import pytest

from raycomp.errors import UserError
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.results.pareto import front
from raycomp.results.query import uniform_baselines
from raycomp.search.baselines import Baseline, by_priority, matched_baselines
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.settings.space_and_search import SearchConfig, SpaceConfig, WidthRange
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.search import SEARCH, SPACE, drive
from tests.helpers.trials import TokenClock, fake_row

UNIFORM_TOME, UNIFORM_PRUNING, UNIFORM_BOTH = BASELINES = uniform_baselines()


@pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2", "random"])
def test_a_whole_sweep(sampler):
    proposer = Proposer(SPACE, SEARCH.model_copy(update={"sampler": sampler}), [])
    done = drive(proposer)
    search = [p for p in done if p.stage == "search"]
    assert proposer.finished
    assert (search[0].origin, search[0].recipe) == ("reference", dense(TINY))
    assert len(search) == 1 + 30
    assert len({p.recipe.id for p in search}) == len(search)
    assert all(SPACE.gflops(SPACE.params(p.recipe)) <= proposer.budget for p in search if p.origin == "proposed")
    assert all(fake_row(TINY, p).gflops <= proposer.budget for p in search if p.origin == "baseline")
    origins = [p.origin for p in search[1:]]
    assert origins == sorted(origins)  # known before proposed


def test_the_full_stage_holds_dense_baselines_and_front():
    done = drive(Proposer(SPACE, SEARCH, []))
    full = [p for p in done if p.stage == "full"]
    assert full[0].recipe == dense(TINY)
    assert {p.label.rpartition(" ")[0] for p in full} >= set(BASELINES)
    assert any(p.origin == "proposed" for p in full)
    assert len({p.recipe.id for p in full}) == len(full)


def test_a_limit_of_time_counts_in_place_of_gflops():
    clock = TokenClock(TINY)
    timed = replace(SPACE, latency=clock)  # type: ignore[arg-type]
    proposer = Proposer(timed, SEARCH, [])
    assert proposer.budget == 0.7 * clock.latency_ms(dense(TINY))
    done: list[Proposal] = []
    while (proposal := proposer.next()) is not None:
        proposer.tell(fake_row(TINY, proposal, clock=clock))
        done.append(proposal)
    search = [p for p in done if p.stage == "search"][1:]
    assert len(search) == 30
    assert all(clock.latency_ms(p.recipe) <= proposer.budget for p in search)
    assert max(fake_row(TINY, p).gflops_share for p in search) > 0.7  # what is fast need not be cheap
    labels = {p.label for p in search}
    assert {"uniform ToMe 70%", "uniform ToMe 50%"} <= labels
    assert not any("pruning" in label for label in labels)  # which saves no time by this clock
    rows = [fake_row(TINY, p, clock=clock) for p in done]
    assert [row.predicted_ms for row in front(rows)] == sorted(row.predicted_ms for row in front(rows))
    with pytest.raises(UserError, match=r"cannot be met: the cheapest recipe of the space costs .* ms; nearest"):
        timed.check_budget(6.0)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("killed_after", [1, 7, 20, 33])
def test_a_restart_proposes_what_an_undisturbed_sweep_does(killed_after):
    undisturbed = drive(Proposer(SPACE, SEARCH, []))
    before = drive(Proposer(SPACE, SEARCH, []), stop_after=killed_after)
    rows = [fake_row(TINY, p) for p in before]
    after = drive(Proposer(SPACE, SEARCH, rows))
    assert [p.key for p in before + after] == [p.key for p in undisturbed]


@pytest.mark.parametrize("sampler", [pytest.param("gp", marks=pytest.mark.slow), "tpe"])
def test_so_does_one_that_ends_where_known_recipes_do(sampler):
    short = SEARCH.model_copy(update={"trials": 18, "sampler": sampler})
    undisturbed = drive(Proposer(SPACE, short, []))
    known = sum(p.origin != "proposed" and p.stage == "search" for p in undisturbed)
    for killed_after in range(known - 1, known + 5):
        before = drive(Proposer(SPACE, short, []), stop_after=killed_after)
        after = drive(Proposer(SPACE, short, [fake_row(TINY, p) for p in before]))
        assert [p.key for p in before + after] == [p.key for p in undisturbed], killed_after


def test_a_finished_sweep_has_nothing_left():
    rows = [fake_row(TINY, p) for p in drive(Proposer(SPACE, SEARCH, []))]
    assert Proposer(SPACE, SEARCH, rows).next() is None


def test_more_trials_go_on_from_a_finished_sweep():
    rows = [fake_row(TINY, p) for p in drive(Proposer(SPACE, SEARCH, []))]
    more = drive(Proposer(SPACE, SEARCH.model_copy(update={"trials": 33}), rows))
    assert sum(p.stage == "search" for p in more) == 3


def test_several_workers_get_different_recipes_and_the_full_stage_waits():
    proposer = Proposer(SPACE, SEARCH, [])
    pending: list[Proposal] = []
    seen: set[tuple[str, str]] = set()
    while not proposer.finished:
        while len(pending) < 4 and (proposal := proposer.next()) is not None:
            assert proposal.key not in seen
            if proposal.stage == "full":
                assert all(p.stage == "full" for p in pending)
            seen.add(proposal.key)
            pending.append(proposal)
        proposer.tell(fake_row(TINY, pending.pop(0)))
    assert sum(stage == "search" for stage, _ in seen) == 31


def test_failed_trials_count_and_are_not_proposed_again():
    proposer = Proposer(SPACE, SEARCH, [])
    seen = []
    while (proposal := proposer.next()) is not None:
        seen.append(proposal.key)
        status = "failed" if proposal.stage == "search" and len(seen) % 3 == 0 else "complete"
        proposer.tell(fake_row(TINY, proposal, status))
    assert len(seen) == len(set(seen))
    assert proposer.trials_done == 30


def test_an_exhausted_space_ends_the_sweep():
    space = Space(TINY, SpaceConfig(embed=WidthRange(low=16), merge_high=0), TINY.image)  # three recipes
    proposer = Proposer(space, SearchConfig(budget=1.0, trials=50, baselines=()), [])
    done = drive(proposer)
    assert proposer.finished
    assert {p.recipe.embed for p in done if p.stage == "search"} == {16, 24, 32}


@pytest.mark.slow
def test_other_seeds_propose_other_recipes():
    runs = [{p.recipe.id for p in drive(Proposer(SPACE, SEARCH.model_copy(update={"seed": s}), []))} for s in (0, 1)]
    assert runs[0] != runs[1]


def test_an_unmeetable_budget_is_refused_at_once():
    with pytest.raises(UserError, match="cannot be met"):
        Proposer(SPACE, SearchConfig(budget=0.01), [])


def test_known_recipes_are_matched_to_their_budget():
    """Merging is fine grained, so it comes within 2 % of the target; no recipe is ever above it."""
    from raycomp.flops import gflops
    from raycomp.shape import deit_base_distilled

    shape = deit_base_distilled((512, 512), 150)
    whole = gflops(shape, dense(shape))
    for item in matched_baselines(shape, (512, 512), (0.7, 0.4)):
        share = gflops(shape, item.recipe) / whole
        assert item.share * 0.98 <= share <= item.share, item.label


def test_known_recipes_stay_within_the_narrowest_widths_allowed():
    narrowest = Recipe(embed=24, blocks=(BlockWidths(heads=2, qk=8, v=8, mlp=80),) * 3)
    found = list(matched_baselines(TINY, TINY.image, (0.8, 0.7, 0.6, 0.1), narrowest=narrowest))
    assert {one.kind for one in found} >= set(BASELINES)
    for one in found:
        assert one.recipe.embed >= 24, one.label
        assert all(b.heads >= 2 and b.mlp >= 80 and b.qk == b.v == 8 for b in one.recipe.blocks), one.label
    pruned_ones = [one.recipe for one in found if one.kind == BASELINES[1]]
    assert any(recipe.blocks[0].heads < 4 for recipe in pruned_ones)
    assert not any(one.share == 0.1 and one.kind == BASELINES[1] for one in found)  # the narrowest costs more


def test_the_next_recipe_is_chosen_while_the_one_before_is_measured():
    search = SEARCH.model_copy(update={"sampler": "tpe"})  # gpytorch's settings are global, and two ask at once
    proposer = Proposer(SPACE, search, [])
    while (running := proposer.next()).origin != "proposed":
        proposer.tell(fake_row(TINY, running))
    later = Proposer(SPACE, search, list(proposer.rows.values()))
    assert later.next() == running
    failed = fake_row(TINY, running, "failed")
    proposer.tell(fake_row(TINY, running))
    later.tell(failed)
    second = proposer.next()
    assert later.next() == second  # chosen before it was known how the first ends
    proposer.tell(fake_row(TINY, second))
    later.tell(fake_row(TINY, second))
    assert later.next() != proposer.next()


def test_a_problem_of_the_sampler_is_told_where_the_proposal_is_asked_for(monkeypatch):
    proposer = Proposer(SPACE, SEARCH, [])
    monkeypatch.setattr(Space, "project", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drive(proposer)


def test_a_dense_model_that_failed_is_measured_again_and_a_recipe_that_failed_is_not():
    first = [fake_row(TINY, p) for p in drive(Proposer(SPACE, SEARCH, []), 3)]
    rows = [replace(row, status="failed") for row in first]
    again = Proposer(SPACE, SEARCH, rows)
    done = drive(again, 4)
    assert done[0].origin == "reference"
    assert not {p.recipe.id for p in done[1:]} & {row.recipe_id for row in rows}


def test_known_recipes_leave_half_of_the_trials_to_the_search():
    """The best kind comes first, at both ends of its costs; what is measured is not measured again later."""
    rows, kinds = [], {}
    for trials in (1, 4, 7, 60):
        config = SEARCH.model_copy(update={"trials": trials, "sampler": "random"})
        search = [p for p in drive(Proposer(SPACE, config, [])) if p.stage == "search"]
        kinds[trials] = [p.label for p in search if p.origin == "baseline"]
        assert len(search) == 1 + trials
        assert [p.number for p in search] == list(range(1 + trials))
    assert kinds[1] == []
    assert kinds[4] == [f"{UNIFORM_BOTH} 70%", f"{UNIFORM_BOTH} 50%"]
    assert set(kinds[7]) == {*kinds[4], f"{UNIFORM_PRUNING} 70%"}
    assert len(kinds[60]) == len(list(matched_baselines(TINY, TINY.image, (0.7, 0.5))))
    for trials in (4, 4, 7, 60):
        config = SEARCH.model_copy(update={"trials": trials, "sampler": "random"})
        proposals = drive(Proposer(SPACE, config, rows))
        rows += [fake_row(TINY, p) for p in proposals]
        searched = [row for row in rows if row.stage == "search"]
        assert [row.number for row in searched] == list(range(1 + trials))
        assert [row.label for row in searched if row.origin == "baseline"][:2] == kinds[4]
    assert {row.label for row in rows if row.origin == "baseline"} == set(kinds[60])


def test_more_known_recipes_after_proposals_survive_a_restart():
    few, more = (SEARCH.model_copy(update={"trials": trials, "sampler": "tpe"}) for trials in (4, 12))
    start = [fake_row(TINY, p) for p in drive(Proposer(SPACE, few, []))]
    undisturbed = [p.key for p in drive(Proposer(SPACE, more, start))]
    for killed_after in range(1, 8):
        before = drive(Proposer(SPACE, more, start), stop_after=killed_after)
        rows = sorted(start + [fake_row(TINY, p) for p in before], key=lambda r: (r.stage != "search", r.number))
        assert [p.key for p in before + drive(Proposer(SPACE, more, rows))] == undisturbed, killed_after


def test_the_best_known_recipes_span_the_costs():
    offered = [
        Baseline(kind, share, dense(TINY)) for share in (0.6, 0.5, 0.4, 0.3) for kind in (UNIFORM_TOME, UNIFORM_BOTH)
    ]
    ordered = [one.label for one in by_priority(offered)]
    assert ordered[:4] == [f"{UNIFORM_BOTH} {share}" for share in ("60%", "30%", "50%", "40%")]
    assert ordered[4:6] == [f"{UNIFORM_TOME} 60%", f"{UNIFORM_TOME} 30%"]
    assert len(ordered) == len(set(ordered)) == 8
