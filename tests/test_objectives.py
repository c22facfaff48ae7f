# SPDX-License-Identifier: Apache-2.0
"""Another set of objectives is followed by fronts, hypervolumes, the sampler's memory, Optuna, and what is printed."""

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import create_trial

from raycomp import objectives
from raycomp.objectives import CLEAN, CORRUPTED, COST, Objective
from raycomp.report.page.charts import front_figure
from raycomp.report.tables import console, front_table
from raycomp.results.pareto import front, hypervolume, most_useful
from raycomp.results.query import origins, stage_agreement
from raycomp.results.tracked_rows import metrics
from raycomp.search import sampler
from raycomp.search.early_stopping import EarlyStopping
from raycomp.search.proposer import Proposer
from raycomp.search.sampler import condensed
from tests.helpers.rows import row
from tests.helpers.search import SEARCH, SPACE
from tests.helpers.sweep_views import measured, sweep_view

LATENCY = Objective(name="latency_ms", short="latency", title="latency", maximised=False, reference=10.0, unit="ms")
SETS = {"two": (CLEAN, COST), "three": (CLEAN, CORRUPTED, COST), "four": (CLEAN, CORRUPTED, LATENCY, COST)}
ROWS = [
    row(recipe_id="slow", clean_miou=0.8, corrupted_miou=0.4, latency_ms=8.0, gflops=5.0),
    row(recipe_id="robust", clean_miou=0.7, corrupted_miou=0.5, latency_ms=8.0, gflops=5.0),
    row(recipe_id="fast", clean_miou=0.6, corrupted_miou=0.3, latency_ms=2.0, gflops=6.0),
    row(recipe_id="bad", clean_miou=0.6, corrupted_miou=0.3, latency_ms=9.0, gflops=6.0),
]


@pytest.fixture(params=SETS)
def chosen(request, monkeypatch):
    monkeypatch.setattr(objectives, "OBJECTIVES", SETS[request.param])
    return request.param


def test_the_front_is_what_nothing_dominates_in_all_objectives(chosen):
    wanted = {"two": {"slow"}, "three": {"slow", "robust"}, "four": {"slow", "robust", "fast"}}
    assert {one.recipe_id for one in front(ROWS)} == wanted[chosen]
    assert len(most_useful(ROWS, 1, 10.0)) == 1


def test_the_hypervolume_of_one_row_is_a_box_up_to_the_references(chosen):
    wanted = {"two": 0.8 * 0.5, "three": 0.8 * 0.4 * 0.5, "four": 0.8 * 0.4 * 2.0 * 0.5}
    assert hypervolume(ROWS[:1], 10.0) == pytest.approx(wanted[chosen])


def test_optuna_gets_every_direction(chosen):
    wanted = {"two": "max min", "three": "max max min", "four": "max max min min"}
    assert [direction[:3] for direction in objectives.directions()] == wanted[chosen].split()
    assert len(objectives.values(ROWS[0])) == len(objectives.OBJECTIVES)


def test_a_full_memory_keeps_the_front(chosen, monkeypatch):
    monkeypatch.setattr(sampler, "KEPT", 40)
    rng, space = np.random.default_rng(0), dict[str, BaseDistribution](a=IntDistribution(0, 9))
    trials = [
        create_trial(params={"a": int(rng.integers(10))}, distributions=space, values=list(values))
        for values in rng.random((200, len(objectives.OBJECTIVES))) ** 2
    ]
    study = optuna.create_study(directions=objectives.directions())
    study.add_trials(trials)
    best = {tuple(trial.values) for trial in study.best_trials}
    held = {tuple(trial.values) for trial in condensed(trials)}
    assert len(best & held) >= min(len(best), 20)


def test_a_search_by_the_surrogate_runs_to_its_end(chosen):
    config = SEARCH.model_copy(update={"sampler": "gp", "trials": 16})
    proposer = Proposer(SPACE, config, [])
    while (proposal := proposer.next()) is not None:
        proposer.tell(measured(proposal))
    assert proposer.finished
    assert proposer.trials_done == 16


def test_reports_and_copies_tell_every_objective(chosen):
    sweep = sweep_view()
    shorts = [one.short for one in objectives.measured()]
    with (out := console()).capture() as captured:
        out.print(front_table(sweep.comparisons, False, origins(sweep.rows)))
    assert f"gains in points, {' / '.join(shorts)}, over" in captured.get()
    assert [list(item.dense) for item in sweep.comparisons] == [shorts] * len(sweep.front)
    labels = [axis.title.text for axis in front_figure(sweep).select_yaxes()]
    assert labels == [one.axis for one in objectives.measured()]
    assert metrics(sweep.front[0], [*"abcd"]).keys() >= {one.name for one in objectives.measured()}
    assert list(stage_agreement(sweep.rows)) == [one.name for one in objectives.measured()]


def test_trials_are_stopped_early_only_where_first_images_tell_all_objectives(chosen):
    learned = EarlyStopping()
    for number in range(12):
        learned.learn(
            row(
                recipe_id=str(number), clean_miou=0.5, early_clean_miou=0.4, corrupted_miou=0.4,
                early_corrupted_miou=0.2, latency_ms=3.0, gflops=1.0,
            )
        )  # fmt: skip
    thresholds = {"two": [(0.4, np.inf)], "three": [(0.4, 0.2)], "four": []}
    assert [pytest.approx(tuple(one)) for one in learned.thresholds(2.0)] == thresholds[chosen]
    stopped = row(status="stopped", early_clean_miou=0.3, early_corrupted_miou=0.1)
    expected = {"two": (0.4,), "three": (0.4, 0.3), "four": (0.4, 0.3, 3.0)}
    assert learned.expected(stopped) == pytest.approx(expected[chosen])
