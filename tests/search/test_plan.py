# SPDX-License-Identifier: Apache-2.0
"""What a dry run promises: counts that the sweep keeps to."""

import pytest

from raycomp.config import SweepConfig
from raycomp.recipe import dense
from raycomp.results.query import is_uniform_baseline
from raycomp.search.plan import plan
from raycomp.search.proposer import Proposer
from raycomp.search.schedule import stage_images
from raycomp.settings.evaluation import StageConfig
from tests.conftest import TINY
from tests.helpers.search import SEARCH, SPACE, drive
from tests.helpers.trials import fake_row


def config(**sections) -> SweepConfig:
    small = {"evaluation": {"search": {"clean": 4, "corrupted": 1}, "full": {"clean": 8, "corrupted": 2}}}
    named = {"name": "tiny", "model": {"checkpoint": "none"}, "data": {"dataset": "streetscenes"}}
    search = SEARCH.model_copy(update={"sampler": "random"}).model_dump()
    return SweepConfig.model_validate(named | small | {"search": search} | sections)


DENSE, AT_BUDGET = 0.03, 0.02  # seconds of a pass


@pytest.fixture
def clock(monkeypatch):
    """The same times at each call, those of a batch."""

    def timed(runs, *_: object) -> dict[str, float]:
        batch = config().evaluation.batch
        assert [run().shape[0] for run in runs.values()] == [batch, batch]
        return {"dense": batch * DENSE, "budget": batch * AT_BUDGET}

    monkeypatch.setattr("raycomp.search.plan.median_seconds", timed)


def test_images_of_a_stage_are_clean_ones_and_every_variant():
    assert stage_images(StageConfig(clean=4, corrupted=2)) == 4 + 2 * 16 * 5
    assert stage_images(StageConfig(clean=4, corrupted=1, severities=(1, 3))) == 4 + 16 * 2


@pytest.mark.parametrize("trials", [1, 4, 11, 30])
def test_a_sweep_keeps_to_its_plan(trials):
    told = config().changed("search", trials=trials)
    proposer = Proposer(SPACE, told.search, [])
    promised = plan(told, proposer)
    done = drive(proposer)
    search, full = ([p for p in done if p.stage == stage] for stage in ("search", "full"))
    assert promised.baselines == sum(p.origin == "baseline" for p in search)
    assert promised.proposed == sum(p.origin == "proposed" for p in search)
    assert promised.full_least <= len(full) <= promised.full
    images = {stage: stage_images(getattr(told.evaluation, stage)) for stage in ("search", "full")}
    assert promised.images == (1 + trials) * images["search"] + promised.full * images["full"]
    assert promised.images_least == (1 + trials) * images["search"] + promised.full_least * images["full"]


def test_hours_are_between_those_of_the_cheapest_proposals_and_those_at_the_limit():
    told = config().changed("search", trials=11)
    promised = plan(told, Proposer(SPACE, told.search, []))
    done = drive(Proposer(SPACE, told.search, []))
    images = {stage: 9 * stage_images(getattr(told.evaluation, stage)) for stage in ("search", "full")}
    shares = {p.key: fake_row(TINY, p).gflops_share for p in done}
    by_hand = [p for p in done if p.origin != "proposed"]
    certain = [p for p in by_hand if p.stage == "search" or p.origin == "reference" or is_uniform_baseline(p.label)]
    sure = promised.pass_ms * sum(images[p.stage] * shares[p.key] for p in certain)
    possible = promised.full - promised.full_least
    proposed, more = promised.proposed * images["search"], possible * images["full"]
    assert promised.hours == pytest.approx((sure + promised.limit_ms * (proposed + more)) / 3.6e6)
    cheapest = SPACE.cost(SPACE.recipe(SPACE.cheapest)) / SPACE.cost(dense(TINY))
    assert promised.hours_least == pytest.approx((sure + promised.pass_ms * proposed * cheapest) / 3.6e6)


def test_once_the_search_is_over_what_is_confirmed_is_known():
    told = config()
    done = drive(Proposer(SPACE, told.search, []))
    rows = [fake_row(TINY, p) for p in done]
    search = [row for row in rows if row.stage == "search"]
    for there in (search, rows[: len(search) + 2], rows):
        promised = plan(told, Proposer(SPACE, told.search, there))
        left = len(rows) - len(there)
        assert (promised.full_least, promised.full, promised.baselines, promised.proposed) == (left, left, 0, 0)
        assert promised.images == promised.images_least == left * stage_images(told.evaluation.full)
    assert promised.hours == promised.hours_least == 0


def test_what_is_measured_is_not_planned_again():
    told = config()
    rows = [fake_row(TINY, p) for p in drive(Proposer(SPACE, told.search, []), stop_after=21)]
    promised = plan(told, Proposer(SPACE, told.search, rows))
    assert (promised.done, promised.baselines + promised.proposed) == (20, 10)


@pytest.mark.parametrize(("stride", "windows"), [(None, 9), (24, 20)])
def test_large_images_take_several_windows(stride, windows, clock):
    sliding = config(data={"dataset": "streetscenes", "stride": stride})  # windows of 48x64, images of 128x128
    promised = plan(sliding, Proposer(SPACE, sliding.search, []))
    assert promised.windows == windows
    one_size = plan(config(), Proposer(SPACE, config().search, []))
    assert promised.hours / windows == pytest.approx(one_size.hours / 9)
    assert promised.hours_least / windows == pytest.approx(one_size.hours_least / 9)


def test_training_counts(clock):
    trains = config(recovery={"mode": "finetune", "steps": 10}, train={"batch": 2})
    proposer = Proposer(SPACE, trains.search, [])
    promised = plan(trains, proposer)
    assert promised.trained == 31 * 10 * 2 * 3
    without = plan(config(), proposer)
    assert promised.images == without.images
    dense_and_known = (
        1 + sum(SPACE.cost(p.recipe) for p in proposer.first if p.origin == "baseline") / proposer.dense_cost
    )
    seconds = 10 * 2 * 3 * (DENSE * dense_and_known + AT_BUDGET * promised.proposed)
    assert 3600 * (promised.hours - without.hours) == pytest.approx(seconds)
