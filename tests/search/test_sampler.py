# SPDX-License-Identifier: Apache-2.0
"""The default sampler: what it chooses from, what it expects, and that it finds more than chance does."""

import moocore
import numpy as np
import optuna
import pytest
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.models import ModelList
from botorch.models.deterministic import GenericDeterministicModel
from botorch.models.transforms.input import FilterFeatures
from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning

from raycomp.objectives import mean_accuracy
from raycomp.results.pareto import hypervolume
from raycomp.search import sampler, surrogate
from raycomp.search.proposer import Proposer
from raycomp.search.surrogate import (
    Surrogate,
    candidates,
    choose,
    expected_improvement,
    max_steps,
    point,
    predicted,
    steps,
)
from tests.helpers.search import SEARCH, SPACE, drive
from tests.helpers.trials import fake_row

DIMENSIONS = list(SPACE.dimensions.values())
CORNER = torch.tensor([0.2, 0.1, -1.0], dtype=torch.float64)
KNOWN = torch.tensor([[0.7, 0.5, -0.9], [0.6, 0.52, -0.5], [0.4, 0.3, -0.2]], dtype=torch.float64)


def front() -> FastNondominatedPartitioning:
    return FastNondominatedPartitioning(ref_point=CORNER, Y=KNOWN)


def test_candidates_are_points_of_the_grid_each_once():
    drawn = candidates(
        DIMENSIONS, np.array([max_steps(DIMENSIONS), max_steps(DIMENSIONS) // 2]), 300, np.random.default_rng(0)
    )
    assert 200 < len(drawn) <= 300
    assert len(np.unique(drawn, axis=0)) == len(drawn)
    assert (drawn >= 0).all()
    assert (drawn <= max_steps(DIMENSIONS)).all()
    for one in drawn:
        where = point(DIMENSIONS, one)
        assert steps(DIMENSIONS, where).tolist() == one.tolist()
        assert SPACE.params(SPACE.recipe(where)) == where


def test_nothing_and_everything_compressed_are_the_ends():
    assert point(DIMENSIONS, max_steps(DIMENSIONS)) == SPACE.smallest
    assert point(DIMENSIONS, 0 * max_steps(DIMENSIONS)) == {d.name: d.full for d in DIMENSIONS}


def test_without_doubt_the_improvement_is_that_of_the_hypervolume():
    mean = torch.tensor([[0.75, 0.45], [0.5, 0.4], [0.3, 0.2], [0.9, 0.6]], dtype=torch.float64)
    certain = torch.tensor([[-0.6], [-0.3], [-0.8], [-1.1]], dtype=torch.float64)
    gains = expected_improvement(mean, torch.zeros_like(mean), certain, front())
    before = moocore.hypervolume(-KNOWN.numpy(), ref=-CORNER.numpy())
    for gain, one in zip(gains, torch.cat([mean, certain], dim=1), strict=True):
        after = moocore.hypervolume(-torch.cat([KNOWN, one[None]]).numpy(), ref=-CORNER.numpy())
        assert float(gain) == pytest.approx(after - before, abs=1e-12)
    assert gains[0] > 0
    assert gains[3] == 0  # over the budget


def test_expectations_are_those_of_botorchs_closed_form(monkeypatch):
    monkeypatch.setattr(surrogate, "_SAMPLES", 4096)
    rng = np.random.default_rng(1)
    compression, accuracy = rng.random((40, 3)), np.empty((40, 2))
    accuracy[:, 0] = 0.7 - 0.3 * compression[:, 0] ** 2 + rng.normal(0, 0.01, 40)
    accuracy[:, 1] = 0.5 - 0.2 * compression[:, 1] ** 2 + rng.normal(0, 0.01, 40)
    models = Surrogate().models(compression, accuracy)
    where, cost = rng.random((20, 3)), torch.from_numpy(rng.random(20))
    ours = expected_improvement(*predicted(models, where), -cost[:, None], front())
    for model in models:
        model.input_transform = FilterFeatures(torch.arange(3))
    every = ModelList(*models, GenericDeterministicModel(lambda x: x[..., 3:]))
    theirs = ExpectedHypervolumeImprovement(every, CORNER.tolist(), front())  # type: ignore[arg-type]
    inputs = torch.cat([torch.from_numpy(where), -cost[:, None]], dim=1)[:, None]
    with torch.no_grad():
        expected = theirs(inputs)
    torch.testing.assert_close(ours, expected, rtol=0.02, atol=1e-5)


def test_of_twins_chosen_together_the_second_brings_nothing():
    mean = torch.tensor([[0.75, 0.55], [0.75, 0.549], [0.5, 0.4]], dtype=torch.float64)
    cost = torch.tensor([0.6, 0.6, 0.25], dtype=torch.float64)
    assert choose(mean, torch.zeros_like(mean), cost, KNOWN, CORNER, 2) == [0, 2]
    assert choose(mean, torch.zeros_like(mean), cost, KNOWN, CORNER, 3) == [0, 2, 1]


def test_hyperparameters_do_not_depend_on_interruptions():
    rng = np.random.default_rng(0)
    compression, accuracy = rng.random((30, 4)), rng.random((30, 2))
    steady = Surrogate()
    for count in range(10, 30):
        steady.models(compression[:count], accuracy[:count])
    went_on = Surrogate().models(compression[:29], accuracy[:29])
    for one, other in zip(steady.models(compression[:29], accuracy[:29]), went_on, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_trials_that_run_count_as_expected():
    rng = np.random.default_rng(0)
    compression = rng.random((20, 2))
    accuracy = np.stack([0.7 - 0.3 * compression[:, 0], 0.5 - 0.2 * compression[:, 1]], axis=1)
    running = np.array([[0.99, 0.01]])
    before, doubt = predicted(Surrogate().models(compression, accuracy), running)
    after, less = predicted(Surrogate().models(np.concatenate([compression, running]), accuracy), running)
    torch.testing.assert_close(before, after, rtol=0, atol=2e-3)
    assert (less < doubt).all()


def test_accuracies_that_are_all_the_same_are_no_error():
    drawn = np.random.default_rng(0).random((12, 2))
    mean, deviation = predicted(Surrogate().models(drawn, np.full((12, 2), 0.25)), drawn)
    torch.testing.assert_close(mean, torch.full_like(mean, 0.25), rtol=0, atol=1e-6)
    assert torch.isfinite(deviation).all()


def test_it_finds_more_than_chance():
    found = {}
    for name in ("gp", "random"):
        config = SEARCH.model_copy(update={"sampler": name, "baselines": (), "trials": 40})
        proposer = Proposer(SPACE, config, [])
        rows = [fake_row(SPACE.shape, p) for p in drive(proposer) if p.stage == "search"][1:]
        found[name] = hypervolume(rows, proposer.dense_cost)
    assert found["gp"] > 1.05 * found["random"]


def test_near_the_budget_the_additive_model_finds_more_than_chance():
    found = {}
    for name in ("additive", "random"):
        config = SEARCH.model_copy(update={"sampler": name, "front": False, "trials": 40})
        rows = [fake_row(SPACE.shape, p) for p in drive(Proposer(SPACE, config, [])) if p.stage == "search"][1:]
        found[name] = max(map(mean_accuracy, rows)), mean_accuracy(rows[0])
    (additive, baseline), (random, _) = found["additive"], found["random"]
    assert additive > baseline
    assert additive > random


@pytest.mark.slow
def test_with_many_running_several_are_chosen_at_once(monkeypatch):
    counts = []
    monkeypatch.setattr(sampler, "_RUNNING_PER_POINT", 2)
    monkeypatch.setattr(sampler, "choose", lambda *a: counts.append(a[-1]) or choose(*a))
    proposer = Proposer(SPACE, SEARCH.model_copy(update={"trials": 60, "baselines": (), "sampler": "gp"}), [])
    running = [proposer.next() for _ in range(8)]
    keys = {p.key for p in running}
    for _ in range(40):
        proposer.tell(fake_row(SPACE.shape, running.pop(0)))
        running.append(proposer.next())
        assert running[-1].key not in keys
        keys.add(running[-1].key)
    assert set(counts) == {5}  # 8 run when one is asked for
    assert sum(counts) <= 40


def test_optuna_may_not_ask_for_one_dimension():
    one = sampler.SurrogateSampler(SPACE, 1.0, Surrogate(), 0)
    with pytest.raises(NotImplementedError):
        optuna.create_study(sampler=one).ask().suggest_int("unknown", 0, 1)
