# SPDX-License-Identifier: Apache-2.0
"""Searches with probes: they count as parts of trials, teach, and survive an interruption."""

import numpy as np
import pytest

from raycomp.results.query import is_uniform_baseline
from raycomp.search.proposer import Proposer
from raycomp.search.schedule import probe_trials
from raycomp.settings.evaluation import EvaluationConfig, StageConfig
from raycomp.settings.training import RecoveryConfig
from tests.conftest import TINY
from tests.helpers.search import SEARCH, SPACE, drive
from tests.helpers.trials import CONFIG, fake_row

PROBE = 0.25
FEW = SEARCH.model_copy(update={"trials": 20})


def proposer(rows=(), config=FEW):
    return Proposer(SPACE, config, list(rows), None, PROBE)


def test_probes_and_trials_spend_the_trials():
    done = drive(proposer())
    probes = [p for p in done if p.stage == "probe"]
    trials = [p for p in done if p.stage == "search" and p.origin != "reference"]
    assert 20 - 1 < len(trials) + PROBE * len(probes) <= 20
    assert {p.origin for p in trials} == {"proposed"}
    assert [p.origin for p in probes] == sorted(p.origin for p in probes)  # baselines first
    assert len({p.key for p in done}) == len(done)
    budgets = {share * SPACE.gflops({}) for share in FEW.baselines}
    assert all(SPACE.gflops(SPACE.params(p.recipe)) <= max(budgets) for p in probes if p.origin == "proposed")


def test_the_full_stage_measures_baselines_that_were_only_probed():
    done = drive(proposer())
    uniform = {p.recipe.id for p in done if p.stage == "probe" and is_uniform_baseline(p.label)}
    assert uniform
    assert uniform <= {p.recipe.id for p in done if p.stage == "full"}


@pytest.mark.parametrize("killed_after", [3, 11, 25, 40])
def test_a_restart_proposes_what_an_undisturbed_sweep_does(killed_after):
    undisturbed = drive(proposer())
    before = drive(proposer(), stop_after=killed_after)
    after = drive(proposer([fake_row(TINY, p) for p in before]))
    assert [p.key for p in before + after] == [p.key for p in undisturbed]


def test_a_recipe_is_never_probed_after_a_trial():
    done = [p.key for p in drive(proposer())]
    for stage, recipe_id in done:
        if stage == "probe" and ("search", recipe_id) in done:
            assert done.index(("probe", recipe_id)) < done.index(("search", recipe_id))


def test_near_the_budget_all_trials_are_at_one_share():
    config = FEW.model_copy(update={"front": False})
    done = drive(proposer(config=config))
    assert {p.label.rpartition(" ")[2] for p in done if p.origin == "baseline"} == {"70%"}
    shares = [SPACE.gflops(SPACE.params(p.recipe)) / SPACE.gflops({}) for p in done if p.origin == "proposed"]
    assert np.median(shares) > 0.65


@pytest.mark.parametrize(
    ("first", "mode", "expected"),
    [
        (StageConfig(clean=16, corrupted=1, severities=(1, 3)), "elastic", 48 / 224),
        (StageConfig(clean=16, corrupted=1, severities=(1, 3)), "none", 48 / 224),
        (StageConfig(clean=16, corrupted=1, severities=(1, 3)), "finetune", None),
        (None, "elastic", None),
    ],
)
def test_a_probe_costs_its_images_unless_recovery_takes_longer(first, mode, expected):
    evaluation, recovery = (
        EvaluationConfig(early_stopping=first),
        RecoveryConfig(mode=mode, steps=10 if mode == "finetune" else 0),
    )
    config = CONFIG.model_copy(update={"evaluation": evaluation, "recovery": recovery})
    assert probe_trials(config) == expected
