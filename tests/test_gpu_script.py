# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu.py: every line runs without a GPU, and its page is of the figures beside it."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.documents import ROOT

RESULTS = ROOT / "docs" / "results"


@pytest.mark.slow
def test_every_step_runs_in_its_small_form(tmp_path):
    job = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--small", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(job, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert done.returncode == 0, {name: step for name, step in steps.items() if step["status"] != "done"}
    assert steps["machine"]["broken_imports"] == {}
    for logits in steps["agreement"]["logits"].values():
        assert logits["largest"] == 0  # both on the CPU
    assert steps["training"]["resume"]["largest_difference_of_a_weight"] == 0
    assert {trial["status"] for trial in steps["tools"]["out_of_memory"].values()} == {"complete"}
    assert {predicted["several_windows_differs"] for predicted in steps["tools"]["predict"].values()} == {0.0}
    assert steps["sweep"]["cpu"]["failed"] == []


def test_the_page_is_rendered_from_the_figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_docs import page

    assert page(json.loads((RESULTS / "gpu.json").read_text())) == (RESULTS / "gpu.md").read_text()
