# SPDX-License-Identifier: Apache-2.0
"""What a sampler remembers of a long sweep: the best, and enough of the others; the same after a restart."""

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import create_trial

from raycomp.objectives import directions
from raycomp.results.row import Row
from raycomp.search import ask_tell, sampler
from raycomp.search.ask_tell import AskTell
from raycomp.search.proposer import Proposer
from raycomp.search.sampler import FixedSpaceTPE, condensed
from tests.helpers.search import SEARCH, SPACE, drive
from tests.helpers.trials import fake_row

SPACE_OF_TWO: dict[str, BaseDistribution] = {
    "b": IntDistribution(0, 9),
    "a": IntDistribution(0, 9),
    "fixed": IntDistribution(3, 3),
}


def trials(count: int) -> list:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        a, b = (int(v) for v in rng.integers(0, 10, 2))
        values = [a / 10 + rng.normal() / 50, b / 10 + rng.normal() / 50, 20 - a - b + rng.normal()]
        found.append(create_trial(params={"a": a, "b": b, "fixed": 3}, distributions=SPACE_OF_TWO, values=values))
    return found


def test_the_front_stays_and_the_order(monkeypatch):
    monkeypatch.setattr(sampler, "KEPT", 60)
    whole = trials(400)
    kept = condensed(whole)
    assert 50 <= len(kept) <= 60
    study = optuna.create_study(directions=directions())
    study.add_trials(whole)
    front = {tuple(trial.values) for trial in study.best_trials}
    held = {tuple(trial.values) for trial in kept}
    assert len(front) < 30
    assert front <= held
    places = [next(i for i, t in enumerate(whole) if t is trial) for trial in kept]
    assert places == sorted(set(places))


def test_the_known_space_proposes_what_optunas_own_does():
    def asked(sampler: optuna.samplers.BaseSampler) -> list[dict]:
        study = optuna.create_study(directions=directions(), sampler=sampler)
        study.add_trials(trials(20))
        return [study.ask(SPACE_OF_TWO).params for _ in range(5)]

    plain = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, n_startup_trials=8, seed=5)
    assert asked(FixedSpaceTPE(SPACE_OF_TWO, 5)) == asked(plain)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("stop", [11, 17, 24, 29])
def test_a_restart_of_a_long_sweep_proposes_what_an_undisturbed_one_does(monkeypatch, stop):
    monkeypatch.setattr(ask_tell, "FULL", 12)
    monkeypatch.setattr(sampler, "KEPT", 6)
    sizes: list[int] = []
    monkeypatch.setattr(ask_tell, "condensed", lambda trials: sizes.append(len(trials)) or condensed(trials))
    undisturbed = drive(Proposer(SPACE, SEARCH, []))
    before = drive(Proposer(SPACE, SEARCH, []), stop_after=stop)
    sizes.clear()
    resumed = Proposer(SPACE, SEARCH, [fake_row(SPACE.shape, p) for p in before])
    after = drive(resumed)
    assert [p.recipe.id for p in before + after] == [p.recipe.id for p in undisturbed]
    assert set(sizes) == {12}, "condensed as soon as it is full"


def test_trials_that_run_while_the_memory_is_condensed_are_told_all_the_same(monkeypatch):
    monkeypatch.setattr(ask_tell, "FULL", 10)
    monkeypatch.setattr(sampler, "KEPT", 6)
    studies: list[optuna.Study] = []
    create = optuna.create_study
    monkeypatch.setattr(optuna, "create_study", lambda **options: studies.append(create(**options)) or studies[-1])
    since_ask: list[Row] = []
    tell, prefetch = AskTell.tell, AskTell.prefetch
    monkeypatch.setattr(AskTell, "tell", lambda self, row: since_ask.append(row) or tell(self, row))
    monkeypatch.setattr(AskTell, "prefetch", lambda self, number: since_ask.clear() or prefetch(self, number))
    several = Proposer(SPACE, SEARCH, [])
    running = [several.next() for _ in range(4)]
    done = 0
    while running:
        proposal = running.pop(0)
        several.tell(fake_row(SPACE.shape, proposal))
        done += 1
        if (following := several.next()) is not None:
            running.append(following)
    assert several.finished
    assert several.trials_done == SEARCH.trials
    several.close()
    assert len(studies) > 1
    states = [trial.state for trial in studies[-1].get_trials(deepcopy=False)]
    assert states.count(optuna.trial.TrialState.RUNNING) == len(since_ask)
