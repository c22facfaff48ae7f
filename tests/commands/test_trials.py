# SPDX-License-Identifier: Apache-2.0
"""`raycomp trials` lists what ran, and says why it failed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raycomp.commands.trials import trials_command
from raycomp.errors import UserError
from raycomp.results.store import Store
from raycomp.search.rows import failed
from tests.helpers.sweep_views import stored, sweep_view


def broken():
    raise ValueError("made to fail")


@pytest.fixture
def results(tmp_path):
    results, store = stored(tmp_path, sweep_view()), Store(tmp_path / "tiny")
    try:
        broken()
    except ValueError as error:
        store.write(failed(replace(sweep_view().rows[3], clean_miou=None, corrupted_miou=None), error))
    return results


def test_trials_are_listed_with_what_failed(results, capsys):
    trials_command("tiny", results=results)
    text = capsys.readouterr().out
    rows = Store(Path(results) / "tiny").rows()
    assert all(row.recipe_id in text for row in rows)
    assert text.count("made to fail") == 1
    trials_command("tiny", failed=True, results=results, as_json=True)
    (only,) = json.loads(capsys.readouterr().out)
    assert only["error"] == "ValueError: made to fail"
    assert "in broken" in only["traceback"]
    assert only["clean_miou"] is None


def test_the_log_of_a_failed_trial_is_its_traceback(results, capsys):
    trials_command("tiny", failed=True, results=results, as_json=True)
    (only,) = json.loads(capsys.readouterr().out)
    trials_command("tiny", log=only["recipe_id"][:6], results=results)
    text = capsys.readouterr().out
    assert text.startswith(f"{only['stage']} of {only['recipe_id']}: ValueError: made to fail")
    assert 'raise ValueError("made to fail")' in text
    with pytest.raises(UserError, match="--log nothing: "):
        trials_command("tiny", log="nothing", results=results)
