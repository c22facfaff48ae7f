# SPDX-License-Identifier: Apache-2.0
"""Turns of a search: probes, then solutions, in rounds that spend the trials."""

import pytest

from raycomp.search.schedule import Schedule, Turn, stage_images
from raycomp.settings.evaluation import StageConfig


@pytest.mark.parametrize(
    ("trials", "probe", "shares"), [(40.0, 0.25, (0.6, 0.4, 0.2)), (9.0, 0.25, (0.5,)), (30.0, None, (0.6, 0.3, 0.2))]
)
def test_all_trials_are_spent_on_two_rounds(trials, probe, shares):
    schedule = Schedule(shares, trials, probe)
    cost = {"probe": probe, "search": 1.0}
    turns, spent = [], 0.0
    while spent + cost[(turn := schedule.turn(len(turns))).stage] <= trials:
        turns.append(turn)
        spent += cost[turn.stage]
    assert trials - spent < 1
    solutions = [turn.share for turn in turns if not turn.explores]
    assert solutions == list(shares) * 2
    learning = [turn for turn in turns if turn.explores]
    assert {turn.stage for turn in learning} == {"search" if probe is None else "probe"}
    weighted = [sum(turn.share == share for turn in learning) / (2 if share > 0.3 else 1) for share in shares]
    assert max(weighted) - min(weighted) <= 1


def test_few_trials_are_one_round_and_solutions_follow_the_last():
    schedule = Schedule((0.6, 0.3), 3.0, 0.25)
    assert [schedule.turn(index).explores for index in range(8)] == [True] * 4 + [False] * 4
    assert schedule.turn(6) == Turn("search", 0.6, False)


@pytest.mark.parametrize(
    ("stage", "images"),
    [
        (StageConfig(clean=4, corrupted=2), 4 + 2 * 16 * 5),
        (StageConfig(clean=4, corrupted=1, severities=(1, 3)), 4 + 16 * 2),
    ],
)
def test_images_of_a_stage(stage, images):
    assert stage_images(stage) == images
