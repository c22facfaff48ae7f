"""What a dry run promises: counts that the sweep keeps to."""

import pytest

from raycomp.config import SweepConfig
from raycomp.search.plan import plan, stage_images
from raycomp.search.proposer import Proposer
from raycomp.sections import StageConfig
from tests.conftest import TINY
from tests.search.fakes import fake_row
from tests.search.test_proposer import SEARCH, SPACE, drive


def config(**sections) -> SweepConfig:
    small = {"evaluation": {"search": {"clean": 4, "corrupted": 1}, "full": {"clean": 8, "corrupted": 2}}}
    named = {"name": "tiny", "model": {"checkpoint": "none"}, "data": {"dataset": "streetscenes"}}
    search = SEARCH.model_copy(update={"sampler": "random"}).model_dump()
    return SweepConfig.model_validate(named | small | {"search": search} | sections)


def test_images_of_a_stage_are_clean_ones_and_every_variant():
    assert stage_images(StageConfig(clean=4, corrupted=2)) == 4 + 2 * 16 * 5
    assert stage_images(StageConfig(clean=4, corrupted=1, severities=(1, 3))) == 4 + 16 * 2


def test_a_sweep_keeps_to_its_plan():
    told = config()
    proposer = Proposer(SPACE, told.search, [])
    promised = plan(told, proposer)
    done = drive(proposer)
    search, full = ([p for p in done if p.stage == stage] for stage in ("search", "full"))
    assert promised.known == sum(p.origin == "known" for p in search)
    assert promised.proposed == sum(p.origin == "proposed" for p in search)
    assert promised.full >= len(full)
    images = {stage: stage_images(getattr(told.evaluation, stage)) for stage in ("search", "full")}
    assert promised.images == (1 + 30) * images["search"] + promised.full * images["full"]
    assert promised.hours == pytest.approx(9 * promised.images * promised.pass_ms / 3.6e6)


def test_what_is_measured_is_not_planned_again():
    told = config()
    rows = [fake_row(TINY, p) for p in drive(Proposer(SPACE, told.search, []), stop_after=21)]
    promised = plan(told, Proposer(SPACE, told.search, rows))
    assert (promised.done, promised.known + promised.proposed) == (20, 10)


@pytest.mark.parametrize(("stride", "windows"), [(None, 9), (24, 20)])
def test_large_images_take_several_windows(stride, windows):
    sliding = config(data={"dataset": "streetscenes", "stride": stride})  # windows of 48x64, images of 128x128
    promised = plan(sliding, Proposer(SPACE, sliding.search, []))
    assert promised.windows == windows
    assert promised.hours == pytest.approx(windows * promised.images * promised.pass_ms / 3.6e6)


def test_training_counts():
    trains = config(recovery={"mode": "finetune", "steps": 10}, train={"batch": 2})
    proposer = Proposer(SPACE, trains.search, [])
    promised = plan(trains, proposer)
    assert promised.trained == 31 * 10 * 2 * 3
    assert promised.images == plan(config(), proposer).images
    assert promised.hours == pytest.approx((9 * promised.images + promised.trained) * promised.pass_ms / 3.6e6)
