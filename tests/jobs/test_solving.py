# SPDX-License-Identifier: Apache-2.0
"""`raycomp solve --confirm` on a cluster: it adds rows to a real sweep, which then shows them."""

import json

import pytest

from raycomp.results.query import final_stage
from raycomp.results.store import Store
from tests.helpers.jobs import RAYCOMP, execute, run


@pytest.mark.slow
def test_confirmed_solutions_join_a_sweep(place):
    swept = run(place, "--trials", "4")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    store = Store(place / "results" / "tiny")
    before = {(row.stage, row.recipe_id): row for row in store.rows()}
    asked = (RAYCOMP, "solve", "tiny", "--budget", "60%", "--confirm", "2", "--json")
    done = execute(place, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    rows = store.rows()
    added = {(row.stage, row.recipe_id): row for row in rows if (row.stage, row.recipe_id) not in before}
    wanted = {(stage, one["recipe_id"]) for one in told["solutions"] for stage in ("search", "full")}
    assert set(added) == wanted - set(before)
    assert all(row.gflops_share <= 0.6 and row.status == "complete" for row in added.values())
    assert len(rows) == len(before) + len(added)
    assert store.is_finished
    assert final_stage(rows) == "full"
    again = run(place, "--trials", "4")
    assert again.returncode == 0, again.stdout + again.stderr
    kept = {(row.stage, row.recipe_id): row.started for row in store.rows()}
    assert {key: kept[key] for key in (*before, *added)} == {
        key: row.started for key, row in (before | added).items()
    }, "a row was measured again"
