# SPDX-License-Identifier: Apache-2.0
"""A sweep on a cluster that starts without nodes: they come, they go, and the rows are those of a fixed machine."""

import sys

import pytest
import yaml

from raycomp.report.autoscale import plot_cluster
from raycomp.results.store import Store
from tests.helpers.figures import series
from tests.helpers.jobs import ROOT, execute, run


@pytest.mark.slow
def test_nodes_come_with_trials_and_go_and_the_result_is_that_of_a_fixed_cluster(place):
    space = yaml.safe_load((place / "space.yaml").read_text())
    space["search"] |= {"trials": 10, "sampler": "random"}  # whose proposals do not depend on who ends first
    (place / "random.yaml").write_text(yaml.safe_dump(space))
    fixed = run(place, "--space", "random.yaml", "--name", "fixed", "--workers", "2")
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    options = ["--space", "random.yaml", "--nodes", "2", "--trials", "10", "--idle", "4", "--name", "grown"]
    grown = execute(place, sys.executable, str(ROOT / "jobs" / "autoscale_demo.py"), *options, seconds=400)
    assert grown.returncode == 0, grown.stdout + grown.stderr
    assert "at most 2 node(s), none at the start and 0 at the end" in " ".join(grown.stdout.split())
    measured = [
        {
            (row.stage, row.recipe_id): (row.clean_miou, row.corrupted_miou, row.gflops)
            for row in Store(place / "results" / name).rows()
        }
        for name in ("fixed", "grown")
    ]
    assert measured[0] == measured[1]
    assert len(measured[0]) > 11
    assert (place / "results" / "grown" / "autoscale.png").is_file()


def test_the_picture_has_nodes_and_the_ends_of_trials(figures, tmp_path):
    plot_cluster([0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 3, 0], [2.5], "title", tmp_path / "autoscale.png")
    assert series(figures[0].axes[0]) == {"nodes": [(0, 0), (1, 1), (2, 2), (3, 0)], "a trial ends": [(2.5, -0.12)]}
