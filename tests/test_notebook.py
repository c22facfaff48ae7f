# SPDX-License-Identifier: Apache-2.0
"""Sweeps in a notebook: frames hold what the rows hold."""

import pytest

import raycomp
from raycomp.errors import UserError
from raycomp.results.store import Store
from tests.helpers.sweep_views import stored, sweep_view


@pytest.fixture
def results(tmp_path):
    return stored(tmp_path, sweep_view())


def test_the_front_is_that_of_the_sweep_with_losses_against_dense(results):
    frame, view = raycomp.Sweep("tiny", results).front(), sweep_view()
    assert list(frame.index) == [row.recipe_id for row in view.front]
    assert list(frame.clean_miou) == [row.clean_miou for row in view.front]
    assert view.dense is not None
    assert list(frame.clean_loss) == [view.dense.clean_miou - row.clean_miou for row in view.front]
    assert list(frame.corrupted_loss) == [view.dense.corrupted_miou - row.corrupted_miou for row in view.front]


def test_trials_are_all_rows_and_follow_a_running_sweep(results, tmp_path):
    sweep = raycomp.Sweep("tiny", results)
    frame, rows = sweep.trials(), Store(tmp_path / "tiny").rows()
    assert list(frame.index) == [row.recipe_id for row in rows]
    assert list(frame.status) == [row.status for row in rows]
    assert list(frame.mlp.iloc[0]) == list(rows[0].mlp)
    (tmp_path / "tiny" / "trials" / f"{rows[0].identity}.parquet").unlink()
    assert len(sweep.trials()) == len(rows)
    assert len(sweep.reload().trials()) == len(rows) - 1
    assert sweep.config == sweep_view().config.model_copy(update={"name": "tiny"})


def test_a_recipe_is_found_by_the_start_of_its_id(results):
    sweep = raycomp.Sweep("tiny", results)
    row = sweep_view().front[0]
    assert sweep.recipe(row.recipe_id[:8]) == row.recipe
    with pytest.raises(KeyError, match="recipes of tiny start so"):
        sweep.recipe("")
    with pytest.raises(UserError, match="no sweep in"):
        raycomp.Sweep("nothing", results)


def test_a_search_takes_the_options_of_the_command(results, monkeypatch):
    calls = []

    def search_command(space, name=None, results="results", trials=None):
        calls.append((space.name, {"name": name, "results": results, "trials": trials}))

    monkeypatch.setattr("raycomp.commands.search.search_command", search_command)
    sweep = raycomp.Sweep.search(name="tiny", results=results, trials=4)
    assert sweep.name == "tiny"
    assert calls == [("streetscenes_vit_micro.yaml", {"name": "tiny", "results": results, "trials": 4})]
    with pytest.raises(UserError, match="nothing"):
        raycomp.Sweep.search("nothing")
    with pytest.raises(UserError, match="option trails: did you mean 'trials'"):
        raycomp.Sweep.search(trails=4)

    def interrupted(space, name=None, results="results"):
        raise SystemExit(130)

    monkeypatch.setattr("raycomp.commands.search.search_command", interrupted)
    with pytest.raises(KeyboardInterrupt):
        raycomp.Sweep.search(name="tiny", results=results)
