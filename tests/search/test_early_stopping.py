# SPDX-License-Identifier: Apache-2.0
"""Trials stop after their first images where those say that the front is out of reach, and only there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raycomp.errors import UserError
from raycomp.evaluate.measure import Stopped, measure
from raycomp.evaluate.miou import Accuracy
from raycomp.recipe import dense
from raycomp.results.row import Row, rows_of, table_of
from raycomp.search.early_stopping import EarlyStopping
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.search.trial import run_trial
from raycomp.settings.evaluation import EvaluationConfig, StageConfig
from tests.conftest import TINY
from tests.helpers import rows
from tests.helpers.search import SEARCH, SPACE
from tests.helpers.trials import fake_row

CPU = torch.device("cpu")
FIRST = StageConfig(clean=2, corrupted=1, severities=(1, 3))


def with_first(context):
    evaluation = context.config.evaluation.model_copy(update={"early_stopping": FIRST})
    return replace(context, config=context.config.model_copy(update={"evaluation": evaluation}))


def measured(context, evaluation: EvaluationConfig, thresholds: tuple[Accuracy, ...] = ()):
    return measure(
        context.cut(dense(context.shape)), context.evalset, "search", evaluation, context.config.data, CPU, thresholds
    )


def test_the_first_images_are_part_of_all(context):
    config = context.config.evaluation
    whole = measured(context, config)
    staged = measured(context, config.model_copy(update={"early_stopping": FIRST}))
    alone = measured(context, config.model_copy(update={"search": FIRST}))
    assert whole.first is None
    assert staged.first == (alone.clean_miou, pytest.approx(float(np.nanmean(alone.corrupted)), abs=1e-15))
    assert (staged.clean_miou, staged.images) == (whole.clean_miou, whole.images)
    np.testing.assert_array_equal(staged.corrupted, whole.corrupted)


def test_a_probe_measures_accuracy_on_the_first_images_alone(context, tmp_path):
    staged = with_first(context)
    whole = measured(context, staged.config.evaluation)
    row = run_trial(staged, None, Proposal(3, "probe", "proposed", "", dense(context.shape)), tmp_path, CPU, "")
    assert (row.stage, row.status, row.images) == ("probe", "complete", 2 + 16 * 2)
    assert (row.clean_miou, row.corrupted_miou) == pytest.approx(whole.first, abs=1e-15)
    assert (row.effective_rank, row.latency_ms, row.early_clean_miou) == (None, None, None)
    assert rows_of(table_of([row]))[0].effective_rank is None
    alone = run_trial(context, None, Proposal(3, "probe", "proposed", "", dense(context.shape)), tmp_path, CPU, "")
    assert (alone.status, alone.error) == (
        "failed", "UserError: evaluation.early_stopping is not set: a probe measures its images"
    )  # fmt: skip


def test_a_model_stops_only_below_both_figures_of_a_threshold(context):
    config = context.config.evaluation.model_copy(update={"early_stopping": FIRST})
    first = measured(context, config).first
    up, down = (Accuracy(first.clean + d, first.corrupted + d) for d in (1e-6, -1e-6))
    measured(context, config, (down, Accuracy(up.clean, down.corrupted), Accuracy(down.clean, up.corrupted)))
    with pytest.raises(Stopped) as stopped:
        measured(context, config, (down, up))
    assert stopped.value.first == first
    assert stopped.value.images == 2 + 16 * 2


def test_the_row_of_a_stopped_trial_claims_no_accuracy(context, tmp_path):
    proposal = Proposal(3, "search", "proposed", "", dense(context.shape), (Accuracy(1.0, 1.0),))
    row = run_trial(with_first(context), None, proposal, tmp_path, CPU, "")
    assert (row.status, row.error, row.images) == ("stopped", "", 34)
    assert 0 <= row.early_clean_miou <= 1
    assert row.clean_miou is None
    whole = run_trial(with_first(context), None, replace(proposal, thresholds=()), tmp_path, CPU, "")
    assert whole.status == "complete"
    assert whole.early_clean_miou == row.early_clean_miou


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ({"clean": 65, "corrupted": 1}, "clean is 65: expected at most search.clean, 64"),
        ({"clean": 1, "corrupted": 3}, "corrupted is 3: expected at most search.corrupted, 2"),
    ],
)
def test_the_first_images_must_be_of_the_search_stage(first, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(early_stopping=first)
    with pytest.raises(ValueError, match=r"early_stopping.severities has 5, which search.severities lacks"):
        EvaluationConfig(
            early_stopping={"clean": 1, "corrupted": 1}, search=FIRST.model_copy(update={"severities": (1, 2, 3, 4)})
        )


def row(clean: float, corrupted: float, gflops: float, gain: tuple[float, float]) -> Row:
    first = {"early_clean_miou": clean - gain[0], "early_corrupted_miou": corrupted - gain[1]}
    return rows.row(clean_miou=clean, corrupted_miou=corrupted, gflops=gflops, **first)


def test_thresholds_are_the_front_on_the_first_images_less_a_margin():
    known = EarlyStopping()
    gains = [(0.01 * (i % 3), 0.02 * (i % 2)) for i in range(10)]
    firsts = [(0.5 + 0.02 * i - gain[0], 0.3 + 0.02 * i - gain[1]) for i, gain in enumerate(gains)]
    for i, gain in enumerate(gains):
        assert known.thresholds(9.0) == ()
        known.learn(row(0.5 + 0.02 * i, 0.3 + 0.02 * i, 1.0 + i, gain))
    (threshold,) = known.thresholds(4.5)  # the fourth is the best of those that cost no more
    near = [gain for i, gain in enumerate(gains) if i != 9]  # of the others, the eight nearest to the fourth
    for j in range(2):
        squares = [(gain[j] - gains[3][j]) ** 2 for gain in near]
        assert threshold[j] == pytest.approx(firsts[3][j] - 2 * (sum(squares) / 8) ** 0.5)
    assert known.thresholds(0.9) == ()
    known.learn(replace(row(0.4, 0.5, 2.0, gains[0]), status="failed"))
    assert len(known.thresholds(4.5)) == 1
    stopped = rows.row(early_clean_miou=0.2, early_corrupted_miou=0.1)  # the ninth is the farthest from it
    assert known.expected(stopped) == pytest.approx(
        [first + sum(g) / 9 for first, g in zip((0.2, 0.1), zip(*near, strict=True), strict=True)]
    )
    known.learn(row(0.4, 0.5, 2.0, gains[0]))
    assert len(known.thresholds(4.5)) == 2


def test_an_objective_that_the_first_images_settle_has_no_margin():
    known = EarlyStopping()
    for i in range(10):
        known.learn(row(0.5 + 0.02 * i, 0.3 + 0.02 * i, 1.0 + i, (0.01 * (i % 3), 0.0)))
    assert [one.corrupted for one in known.thresholds(4.5)] == [pytest.approx(0.36, abs=1e-12)]


def staged_row(proposal: Proposal) -> Row:
    """Half a point is gained over the first images, more or less."""
    found = fake_row(TINY, proposal)
    noise = np.random.default_rng(int(proposal.recipe.id, 16)).normal(0.005, 0.002, 2)
    first = Accuracy(found.clean_miou - noise[0], found.corrupted_miou - noise[1])
    found = replace(found, early_clean_miou=first.clean, early_corrupted_miou=first.corrupted)
    if any(
        first.clean < threshold.clean and first.corrupted < threshold.corrupted for threshold in proposal.thresholds
    ):
        found = replace(found, status="stopped", clean_miou=None, corrupted_miou=None)
    return found


def drive(proposer: Proposer, stop_after: int | None = None) -> list[tuple[Proposal, Row]]:
    done: list[tuple[Proposal, Row]] = []
    while (proposal := proposer.next()) is not None and (stop_after is None or len(done) < stop_after):
        found = staged_row(proposal)
        proposer.tell(found)
        done.append((proposal, found))
    return done


def test_what_stops_could_not_have_reached_the_front():
    proposer = Proposer(SPACE, SEARCH.model_copy(update={"sampler": "random", "trials": 60}), [])
    done = drive(proposer)
    stopped = [p for p, found in done if found.status == "stopped"]
    assert len(stopped) > 10
    assert all(p.origin == "proposed" for p in stopped)
    assert proposer.trials_done == 60
    assert not {p.recipe.id for p in stopped} & {p.recipe.id for p, _ in done if p.stage == "full"}
    whole = [found for _, found in done if found.stage == "search" and found.status == "complete"]
    for proposal in stopped:
        truth = fake_row(TINY, proposal)
        assert any(
            other.clean_miou >= truth.clean_miou
            and other.corrupted_miou >= truth.corrupted_miou
            and other.gflops <= truth.gflops
            for other in whole
        )


@pytest.mark.parametrize("sampler", ["gp", "random"])
def test_a_restart_stops_what_an_undisturbed_sweep_does(sampler):
    search = SEARCH.model_copy(update={"sampler": sampler})
    undisturbed = drive(Proposer(SPACE, search, []))
    before = drive(Proposer(SPACE, search, []), stop_after=25)
    after = drive(Proposer(SPACE, search, [found for _, found in before]))
    assert sampler == "gp" or any(found.status == "stopped" for _, found in before)
    assert [(p.key, found.status) for p, found in before + after] == [(p.key, found.status) for p, found in undisturbed]


def test_a_search_space_tells_of_first_images_that_are_not_there(tmp_path):
    from raycomp.config import load

    path = tmp_path / "space.yaml"
    first = "evaluation: {first: {clean: 900, corrupted: 1}}"
    path.write_text(f"name: a\nmodel: {{checkpoint: x}}\ndata: {{dataset: streetscenes}}\n{first}\n")
    with pytest.raises(UserError, match=r"clean is 900: expected at most search.clean, 64"):
        load(path)
